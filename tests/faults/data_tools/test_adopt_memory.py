"""Memory at ImageNet's scale: half a million tiny pictures in a file that stock FFCV wrote, adopted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.images import photo
from helpers.processes import peak_megabytes
from helpers.stock import write_stock

from data_tools.beton.manifest import read_manifest

IMAGES = 500_000


class Tiny:
    """Pictures of 16 x 12 px in 1,000 classes."""

    def __init__(self, images: int) -> None:
        self.images, self.pictures = images, [photo(at, 16, 12) for at in range(100)]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        return self.pictures[at % 100], at % 1000


@pytest.mark.slow
def test_memory_is_bounded_at_half_a_million_images(tmp_path: Path) -> None:
    """The tables of a sample take 56 bytes in the file; here 400 suffice for each, and what is read does not add up."""
    peaks = []
    for images in (10_000, IMAGES):
        path = write_stock(tmp_path / str(images) / "train.ffcv", Tiny(images), mode="jpg")
        peaks.append(peak_megabytes("-m", "data_tools.adopt", path, "--workers=2"))
        assert read_manifest(path).images == images
    few, many = peaks
    print(f"{IMAGES:,} images: {many} MB, 10,000 images: {few} MB")
    assert many - few < 400 * IMAGES / 1e6
