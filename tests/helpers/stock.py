"""Files that stock FFCV's DatasetWriter writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.images import photo

SIZES = [(500, 120), (120, 500), (620, 100), (180, 140)]
MODES = ("raw", "jpg", "smart", "proportion")


class Photos:
    """(picture, label) of each sample, or (label, picture)."""

    def __init__(self, images: int, classes: int = 4, *, label_first: bool = False) -> None:
        self.images, self.classes, self.label_first = images, classes, label_first

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, at: int) -> tuple[Any, ...]:
        if at >= self.images:
            raise IndexError(at)
        pair = photo(at, *SIZES[at % len(SIZES)]), at % self.classes
        return pair[::-1] if self.label_first else pair


def write_stock(path: Path, samples: Any, fields: dict[str, Any] | None = None, mode: str = "proportion") -> Path:
    """By default as ffcv-imagenet writes: longer side at most 500 px, half of the pictures as JPEGs of quality 90."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image = RGBImageField(mode, 500, 100_000 if mode == "smart" else None, 90, 0.5)
    np.random.seed(1)  # of the choice between JPEG and pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = DatasetWriter(str(path), fields or {"image": image, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(samples)
    return path


def write_stock_sets(folder: Path, mode: str = "proportion") -> list[Path]:
    """40 training and 12 validation pictures of four classes, under ffcv-imagenet's names."""
    counts = {"train": 40, "val": 12}
    return [
        write_stock(folder / f"{split}_500_0.50_90.ffcv", Photos(images), mode=mode) for split, images in counts.items()
    ]
