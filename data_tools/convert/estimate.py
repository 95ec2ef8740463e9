"""Estimate a conversion from a sample of its images: bytes and minutes of each beton."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.beton.format import ALLOC, data_start
from data_tools.beton.writer import partial_path
from data_tools.common.resources import usable_cores
from data_tools.convert import transcode
from data_tools.convert.plan import ConversionError, ConversionPass
from data_tools.sources.index import Index, SplitIndex
from data_tools.sources.reader import Reader

SAMPLED = 200  # images; enough for a mean size within about 5 % of that of all images
SAMPLED_OF_PARQUET = 40  # as reading a row means reading its group up to it
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


def estimate(todo: ConversionPass, index: Index, workers: int) -> list[Estimate]:
    """Store a sample of a pass's images in memory. Bad images are skipped: the conversion reports them."""
    split_index, storage = todo.split_index, todo.storage
    as_jpg = dataclasses.replace(storage, raw_share=0.0)
    reader = Reader(index.files)
    sizes: list[list[tuple[int, int, int]]] = []
    seconds = 0.0
    for sample in _sampled(split_index):
        file, offset, length = split_index.places[sample].tolist()
        key = split_index.key(sample)
        started = time.perf_counter()
        try:
            stored = transcode.store(reader.read(file, offset, length, key), key, storage)
        except transcode.BadImageError:
            continue
        seconds += time.perf_counter() - started
        jpg = stored
        if storage.raw_share:
            jpg = transcode.store(reader.read(file, offset, length, key), key, as_jpg)
        sizes.append(
            [(len(one.data), len(two.data), one.width * one.height * 3) for one, two in zip(stored, jpg, strict=True)]
        )
    reader.close()
    if not sizes:
        return []
    mean = np.mean(np.array(sizes, np.float64), axis=0)
    minutes = seconds / len(sizes) * len(split_index) / min(workers, usable_cores()) / 60
    return [
        Estimate(
            path=path,
            images=len(split_index),
            bytes=_file_bytes(means[0], len(split_index), page_bytes),
            bytes_jpg=_file_bytes(means[1], len(split_index), page_bytes),
            bytes_raw=_file_bytes(means[2], len(split_index), page_bytes),
            minutes=minutes,
        )
        for path, means, page_bytes, done in zip(todo.paths, mean, storage.page_bytes, todo.done, strict=True)
        if not done
    ]


def _sampled(split_index: SplitIndex) -> list[int]:
    limit = SAMPLED if split_index.order is None else SAMPLED_OF_PARQUET
    count = min(limit, max(4, len(split_index) // 200), len(split_index))
    positions = np.linspace(0, len(split_index) - 1, count).astype(int)
    order = positions if split_index.order is None else split_index.order[positions]
    return [int(sample) for sample in order]


def _file_bytes(mean_bytes: float, count: int, page_bytes: int) -> float:
    """Bytes of a beton: its tables, and whole pages, each of which loses half a sample at its end on average."""
    pages = math.ceil(count * mean_bytes / max(page_bytes - mean_bytes / 2, mean_bytes))
    return data_start(count, page_bytes) + pages * page_bytes + count * ALLOC.itemsize


def check_room(estimates: Sequence[Estimate], folder: Path) -> None:
    """Raise ConversionError if the disk is too small for what is still to be written."""
    written = sum(_allocated(partial_path(beton.path)) for beton in estimates)
    needed = sum(beton.bytes for beton in estimates) - written
    free = free_bytes(folder)
    if needed * MARGIN > free:
        raise ConversionError(
            f"about {needed / 1e6:,.1f} MB will be written, but only {free / 1e6:,.1f} MB are free",
            where=folder,
            remedy="make room, or give fewer --data.caps or another --data.out",
        )


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.exists() else 0


def free_bytes(folder: Path) -> int:
    filesystem = os.statvfs(folder)
    return filesystem.f_bavail * filesystem.f_frsize


def table(estimates: Sequence[Estimate], folder: Path) -> str:
    """A line for each beton. Minutes are those of the pass, which its betons share."""
    lines = [f"{'estimate':<18}{'images':>11}{'MB':>12}{'all JPEG':>12}{'all raw':>13}{'minutes':>10}"]
    for beton in estimates:
        megabytes = f"{beton.bytes / 1e6:>12,.1f}{beton.bytes_jpg / 1e6:>12,.1f}{beton.bytes_raw / 1e6:>13,.1f}"
        lines.append(f"{beton.path.name:<18}{beton.images:>11,}{megabytes}{beton.minutes:>10,.1f}")
    total = sum(beton.bytes for beton in estimates) / 1e6
    lines.append(f"{'all':<18}{'':>11}{total:>12,.1f}   of {free_bytes(folder) / 1e6:,.1f} MB free")
    return "\n".join(lines)
