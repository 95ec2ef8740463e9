"""The index: every image of every split in one order, with its label and location, in a few dozen bytes an image."""

from __future__ import annotations

import hashlib
import itertools
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.classes import classes_digest, number_classes
from data_tools.beton.manifest import Source
from data_tools.sources.tar import SourceError

FileKind = Literal["archive", "folder", "flat", "parquet"]
PLACE = np.dtype([("file", "<u4"), ("offset", "<u8"), ("length", "<u8")])


@dataclass(frozen=True, slots=True)
class File:
    """Where bytes are read from.

    An archive at offsets; the folder of a split, by class/file; a flat folder, by file; a parquet shard, by row.
    """

    kind: FileKind
    path: str


@dataclass(frozen=True, slots=True, eq=False)
class SplitIndex:
    """The images of one split, in sample order. `cap`: the size that they were resized to; None: originals.

    order: the order in which to read and write them if that is not sample order (parquet is read sequentially).
    """

    split: str
    cap: int | None
    classes: tuple[str, ...]
    labels: NDArray[np.uint32]
    places: NDArray[Any]
    names: bytes
    name_ends: NDArray[np.uint64]
    order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, sample: int) -> str:
        start = int(self.name_ends[sample - 1]) if sample else 0
        return os.fsdecode(self.names[start : int(self.name_ends[sample])])

    def key(self, sample: int) -> str:
        """class/file, which names an image in errors and seeds what is random about it."""
        return f"{self.classes[self.labels[sample]]}/{self.name(sample)}"

    def digest(self) -> str:
        """SHA-256 over class, file name and length of every image, in order: the same for a tar and a folder."""
        total = hashlib.sha256(self.names)
        for part in (self.name_ends, self.labels, self.places["length"]):
            total.update(np.ascontiguousarray(part).tobytes())
        total.update(classes_digest(self.classes).encode())
        return total.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Everything in the sources.

    `ignored` counts files that are not images of a split, `ignored_example` is one; `notes` are for the reader.
    """

    classes: tuple[str, ...]
    split_indexes: tuple[SplitIndex, ...]
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    ignored: int
    ignored_example: str
    notes: tuple[str, ...] = ()

    def images(self) -> dict[str, int]:
        return {split_index.split: len(split_index) for split_index in self.split_indexes}


@dataclass(slots=True)
class Rows:
    """One split while it is collected, in arrays: a million tuples would take a gigabyte."""

    classes: array[int] = field(default_factory=lambda: array("L"))
    files: array[int] = field(default_factory=lambda: array("L"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    names: list[bytes] = field(default_factory=list)


class IndexBuilder:
    """Collects what the readers of all kinds of source find; images of splits that are not wanted are dropped."""

    def __init__(self, splits: Sequence[str] = ("train", "val")) -> None:
        self.splits = splits
        self.files: list[File] = []
        self.class_ids: dict[str, int] = {}
        self.rows: dict[tuple[str, int | None], Rows] = {}
        self.sources: list[Source] = []
        self.ignored = 0
        self.ignored_example = ""
        self.notes: list[str] = []

    def file(self, kind: FileKind, path: Path) -> int:
        self.files.append(File(kind, str(path)))
        return len(self.files) - 1

    def add(self, split: str, cap: int | None, name: str, file_name: str, file: int, offset: int, length: int) -> None:
        if split not in self.splits:
            return
        rows = self.rows.setdefault((split, cap), Rows())
        rows.classes.append(self.class_ids.setdefault(name, len(self.class_ids)))
        rows.files.append(file)
        rows.offsets.append(offset)
        rows.lengths.append(length)
        rows.names.append(os.fsencode(file_name))

    def merge(self, other: IndexBuilder) -> None:
        """Take over the images of another, which may not be used any more."""
        ids = [self.class_ids.setdefault(name, len(self.class_ids)) for name in other.class_ids]
        for key, rows in other.rows.items():
            rows.classes = array("L", map(ids.__getitem__, rows.classes))
            mine = self.rows.setdefault(key, rows)
            if mine is not rows:
                for column in fields(Rows):
                    getattr(mine, column.name).extend(getattr(rows, column.name))

    def count(self) -> int:
        return sum(len(rows.names) for rows in self.rows.values())

    def ignore(self, name: str, count: int = 1) -> None:
        self.ignored += count
        self.ignored_example = self.ignored_example or name

    def index(self) -> Index:
        classes = number_classes(self.class_ids)
        split_indexes = [
            _split_index(self, split, cap, classes, self.rows.pop((split, cap)))
            for split, cap in sorted(self.rows, key=str)
        ]
        _check_same_images(split_indexes)
        return Index(
            classes=classes,
            split_indexes=tuple(split_indexes),
            files=tuple(self.files),
            sources=tuple(self.sources),
            ignored=self.ignored,
            ignored_example=self.ignored_example,
            notes=tuple(self.notes),
        )


# ---------------------------------------------------------------------------------------------- ordering
def _split_index(
    builder: IndexBuilder, split: str, cap: int | None, classes: tuple[str, ...], rows: Rows
) -> SplitIndex:
    numbers = {name: label for label, name in enumerate(classes)}
    label_of = np.array([numbers[name] for name in builder.class_ids], np.uint32)
    unsorted = label_of[np.array(rows.classes, np.int64)]
    order = _sorted(unsorted, rows.names)
    _check_duplicates(builder, split, unsorted, classes, order, rows)
    places = np.empty(len(order), PLACE)
    for key, values in (("file", rows.files), ("offset", rows.offsets), ("length", rows.lengths)):
        places[key] = np.array(values, np.uint64)[order]
    names = [rows.names[row] for row in order]
    ends = np.cumsum(np.fromiter(map(len, names), np.uint64, len(names)), dtype=np.uint64)
    is_parquet = np.array([file.kind == "parquet" for file in builder.files])
    storage_order = np.lexsort((places["offset"], places["file"])) if is_parquet[places["file"]].any() else None
    return SplitIndex(split, cap, classes, unsorted[order], places, b"".join(names), ends, storage_order)


def _sorted(label: NDArray[np.uint32], names: list[bytes]) -> NDArray[np.int64]:
    """By label, then name. Class by class: one sort key for each of a million images would take 200 MB."""
    order = np.argsort(label, kind="stable")
    bounds = np.flatnonzero(np.diff(label[order])) + 1
    return np.concatenate([sorted(part, key=names.__getitem__) for part in np.split(order, bounds)])


def _check_duplicates(
    builder: IndexBuilder,
    split: str,
    label: NDArray[np.uint32],
    classes: tuple[str, ...],
    order: NDArray[np.int64],
    rows: Rows,
) -> None:
    for one, two in itertools.pairwise(order):
        if rows.names[one] == rows.names[two] and label[one] == label[two]:
            files = {builder.files[rows.files[row]].path for row in (one, two)}
            image = f"{split}/{classes[label[one]]}/{os.fsdecode(rows.names[one])}"
            raise SourceError(f"{image} is there twice", where=" and ".join(sorted(files)))


def _check_same_images(split_indexes: Sequence[SplitIndex]) -> None:
    """Betons of one split hold the same images: resized ones must be as many as the originals."""
    first: dict[str, SplitIndex] = {}
    for split_index in split_indexes:
        other = first.setdefault(split_index.split, split_index)
        if len(other) != len(split_index) or other.names != split_index.names:
            raise SourceError(
                f"{len(split_index)} images at {split_index.cap or 'full size'} but {len(other)} at "
                f"{other.cap or 'full size'}, or other ones",
                where=split_index.split,
                remedy="give sources of the same images",
            )
