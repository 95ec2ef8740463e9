"""Estimate a conversion from a sample of its images: bytes and minutes of each beton."""

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import ALLOC, data_start
from data_tools.beton.writer import partial_path
from data_tools.convert.image_pool import ImagePool
from data_tools.convert.plan import ConversionError, ConversionPass
from data_tools.convert.transcode import StorageOptions
from data_tools.sources.index import Index, SplitIndex

SAMPLED = 200  # images; enough for a mean size within about 5 % of that of all images
NEIGHBOURS = 25
CHUNK = 4  # images; small, so that all threads have some
MARGIN = 0.95  # refuse only what exceeds the free disk by more than the error of the estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """One beton: its bytes as asked for, as all JPEG and as all pixels, and the minutes of its pass."""

    path: Path
    images: int
    bytes: float
    bytes_jpg: float
    bytes_raw: float
    minutes: float


def estimate(planned: ConversionPass, index: Index, pool: ImagePool) -> list[Estimate]:
    """Store a sample of a pass's images in memory. Bad images are skipped: the conversion reports them."""
    split_index, storage = planned.split_index, planned.storage
    started = time.perf_counter()
    records = _stored(split_index, index, storage, pool)
    seconds = time.perf_counter() - started
    as_jpg = records
    if storage.raw_share:
        as_jpg = _stored(split_index, index, dataclasses.replace(storage, raw_share=0.0), pool)
    if not len(records):
        return []
    images = len(split_index)
    pixels = 3.0 * records["width"] * records["height"]
    means = [values.mean(axis=0).tolist() for values in (records["size"], as_jpg["size"], pixels)]
    return [
        Estimate(
            path=beton.path,
            images=images,
            bytes=_file_bytes(mean, images, page_bytes),
            bytes_jpg=_file_bytes(mean_jpg, images, page_bytes),
            bytes_raw=_file_bytes(mean_raw, images, page_bytes),
            minutes=seconds / len(records) * images / 60,
        )
        for beton, mean, mean_jpg, mean_raw, page_bytes in zip(planned.betons, *means, storage.page_bytes, strict=True)
        if not beton.done
    ]


def _stored(split_index: SplitIndex, index: Index, storage: StorageOptions, pool: ImagePool) -> NDArray[Any]:
    """The records (images, outputs) of the sampled images that are not bad."""
    items = [(0, *split_index.places[sample].tolist(), split_index.key(sample)) for sample in _sampled(split_index)]
    chunks = (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))
    records = np.concatenate([chunk.records for chunk in pool.run(index.files, storage, chunks)])
    return records[records["size"].all(axis=1)]


def _sampled(split_index: SplitIndex) -> list[int]:
    """Evenly spaced images; of parquet, where a row is reached through its group, runs of neighbours."""
    count = min(SAMPLED, len(split_index))
    if split_index.order is None:
        return [int(sample) for sample in np.linspace(0, len(split_index) - 1, count)]
    runs = np.linspace(0, len(split_index) - NEIGHBOURS, -(-count // NEIGHBOURS)).clip(0).astype(int)
    places = np.unique((runs[:, None] + np.arange(NEIGHBOURS)).clip(0, len(split_index) - 1))
    return [int(sample) for sample in split_index.order[places]]


def _file_bytes(mean_bytes: float, count: int, page_bytes: int) -> float:
    """Bytes of a beton: its tables, and whole pages, each of which loses half a sample at its end on average."""
    pages = math.ceil(count * mean_bytes / max(page_bytes - mean_bytes / 2, mean_bytes))
    return data_start(count, page_bytes) + pages * page_bytes + count * ALLOC.itemsize


def check_room(estimates: Sequence[Estimate], folder: Path) -> None:
    """Raise ConversionError if the disk is too small for what is still to be written."""
    partials = [path for beton in estimates if (path := partial_path(beton.path)).exists()]
    written = sum(path.stat().st_blocks * 512 for path in partials)
    needed = sum(beton.bytes for beton in estimates) - written
    free = shutil.disk_usage(folder).free
    if needed * MARGIN > free:
        raise ConversionError(
            f"about {needed / 1e6:,.1f} MB will be written, but only {free / 1e6:,.1f} MB are free",
            where=folder,
            remedy="make room, or give fewer --data.caps or another --data.out",
        )


def table(estimates: Sequence[Estimate], folder: Path) -> str:
    """A line for each beton. Minutes are those of the pass, which its betons share."""
    lines = [f"{'estimate':<18}{'images':>11}{'MB':>12}{'all JPEG':>12}{'all raw':>13}{'minutes':>10}"]
    for beton in estimates:
        megabytes = f"{beton.bytes / 1e6:>12,.1f}{beton.bytes_jpg / 1e6:>12,.1f}{beton.bytes_raw / 1e6:>13,.1f}"
        lines.append(f"{beton.path.name:<18}{beton.images:>11,}{megabytes}{beton.minutes:>10,.1f}")
    total = sum(beton.bytes for beton in estimates) / 1e6
    lines.append(f"{'all':<18}{'':>11}{total:>12,.1f}   of {shutil.disk_usage(folder).free / 1e6:,.1f} MB free")
    return "\n".join(lines)
