"""What a beton holds, read without the code that loads it, and ways to damage a copy."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools.beton.format import RAW, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path


def file_digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files in a folder, or of those that a pattern matches."""
    files = {path for pattern in patterns or ("*",) for path in folder.glob(pattern)}
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def sample_place(path: Path, sample: int) -> tuple[int, int]:
    """Offset and size of a sample's bytes."""
    layout = read_layout(path)
    return int(layout.samples["f0"]["data_ptr"][sample]), int(layout.sizes()[sample])


def stored_samples(path: Path) -> list[tuple[int, bytes]]:
    """(label, bytes) of every sample."""
    content, layout = path.read_bytes(), read_layout(path)
    return [
        (int(label), content[int(start) : int(start) + int(size)])
        for start, label, size in zip(
            layout.samples["f0"]["data_ptr"], layout.samples["f1"], layout.sizes(), strict=True
        )
    ]


def decoded_samples(path: Path) -> list[Image.Image]:
    """Every sample as PIL sees it."""
    return [
        Image.frombytes("RGB", (int(image["width"]), int(image["height"])), data)
        if image["mode"] == RAW
        else Image.open(io.BytesIO(data)).convert("RGB")
        for image, (_, data) in zip(read_layout(path).samples["f0"], stored_samples(path), strict=True)
    ]


def batches_in_order(loader: object, epoch: int, rank: int = 0, ranks: int = 1, pages: tuple = ()) -> np.ndarray:
    """(batches, batch): the samples that an epoch of a TrainLoader takes, as its documentation says.

    ``pages``: the page of each sample and the window, for a loader with ``page_window``.
    """
    from training.loader import sample_order  # not for those who only read betons: it loads FFCV

    if pages:
        samples = sample_order.page_order(loader.seed, epoch, *pages)
    else:
        samples = sample_order.epoch_order(loader.seed, epoch, loader.images)
    return sample_order.rank_slice(samples, loader.batch, rank, ranks)


def epoch_by_sample(path: Path, epoch: int, **options: Any) -> dict[int, bytes]:
    """Pixels of every sample that an epoch of a TrainLoader with these options gives, over all `ranks`."""
    from training.loader.loaders import TrainLoader

    got, ranks = {}, options.get("ranks", 1)
    for rank in range(ranks):
        with TrainLoader(path, **options, rank=rank) as loader, loader.epoch(epoch) as batches:
            for samples, (images, _) in zip(batches_in_order(loader, epoch, rank, ranks), batches, strict=True):
                got |= {int(sample): image.numpy().tobytes() for sample, image in zip(samples, images, strict=True)}
    return got


def copy_beton(path: Path, folder: Path) -> Path:
    """A copy with its manifest and its checksums."""
    for each in (path, manifest_path(path), checksums_path(path)):
        shutil.copy(each, folder / each.name)
    return folder / path.name


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
