"""The index: every image of every split in one order, with its label and location, in a few dozen bytes an image."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.classes import classes_digest, number_classes
from data_tools.beton.manifest import Source
from data_tools.common.names import name_bytes, name_of
from data_tools.sources.reader import File, FileKind, Reader
from data_tools.sources.tar import SourceError

PLACE = np.dtype([("file", "<u4"), ("offset", "<u8"), ("length", "<u8")])
SPLITS = ("train", "val")
_PROBED = 256  # images of a split whose bytes are read for its state


@dataclass(frozen=True, slots=True, eq=False)
class SplitIndex:
    """The images of one split, in sample order. `cap`: the size that they were resized to; None: originals.

    order: the order in which to read and write them if that is not sample order (parquet is read sequentially).
    state: by kind of file, a digest that changes with the images' contents; see `_state`.
    """

    split: str
    cap: int | None
    classes: tuple[str, ...]
    labels: NDArray[np.uint32]
    places: NDArray[Any]
    names: bytes
    name_ends: NDArray[np.uint64]
    order: NDArray[np.int64] | None = None
    state: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, sample: int) -> str:
        start = int(self.name_ends[sample - 1]) if sample else 0
        return name_of(self.names[start : int(self.name_ends[sample])])

    def key(self, sample: int) -> str:
        """class/file, which names an image in errors and seeds its random choices."""
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
    modified: array[int] = field(default_factory=lambda: array("Q"))
    names: list[bytes] = field(default_factory=list)


class IndexBuilder:
    """Collects what the readers of all kinds of source find; images of splits that are not wanted are dropped."""

    def __init__(self, splits: Sequence[str] = SPLITS) -> None:
        self.splits = splits
        self.files: list[File] = []
        self.class_ids: dict[str, int] = {}
        self.rows: dict[tuple[str, int | None], Rows] = {}
        self.sources: list[Source] = []
        self.ignored = 0
        self.ignored_example = ""
        self.notes: list[str] = []
        self._left_out: dict[str, tuple[int, str]] = {}
        self._class_order: dict[str, int] = {}

    def file(self, kind: FileKind, path: Path, *, column: str = "", digest: str = "") -> int:
        self.files.append(File(kind, str(path), column, digest))
        return len(self.files) - 1

    def add(
        self,
        split: str,
        cap: int | None,
        name: str,
        file_name: str,
        file: int,
        offset: int,
        length: int,
        modified: int = 0,
    ) -> None:
        """Add an image. `modified`: its time of modification, in the units of its kind of file."""
        if split not in self.splits:
            return
        rows = self.rows.setdefault((split, cap), Rows())
        rows.classes.append(self.class_ids.setdefault(name, len(self.class_ids)))
        rows.files.append(file)
        rows.offsets.append(offset)
        rows.lengths.append(length)
        rows.modified.append(modified & ((1 << 64) - 1))  # times before 1970 are negative
        rows.names.append(name_bytes(file_name))

    def merge(self, other: IndexBuilder) -> None:
        """Take over the images of another, which must not be used afterwards."""
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

    def leave_out(self, reason: str, example: object) -> None:
        """Count what is not taken, by reason, and keep the first example of each."""
        count, first = self._left_out.get(reason, (0, str(example)))
        self._left_out[reason] = count + 1, first

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(
            f"{reason} left out: {count:,}, e.g. in {example}" for reason, (count, example) in self._left_out.items()
        )

    def order_classes(self, names: Iterable[str]) -> None:
        """Number the classes in this order, and not by name."""
        self._class_order = {name: at for at, name in enumerate(names)}

    def _classes(self) -> tuple[str, ...]:
        if not self._class_order:
            return number_classes(self.class_ids)
        if others := sorted(self.class_ids.keys() - self._class_order.keys()):
            what = f"class {others[0]} is not a class of the parquet: {', '.join(list(self._class_order)[:5])}, ..."
            raise SourceError(what, remedy="give sources with the same classes")
        return tuple(sorted(self.class_ids, key=self._class_order.__getitem__))

    def index(self) -> Index:
        classes = self._classes()
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
            notes=(*self.notes, *self.left_out),
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
    found = SplitIndex(split, cap, classes, unsorted[order], places, b"".join(names), ends, storage_order)
    return replace(found, state=_state(found, builder.files, np.array(rows.modified, np.uint64)[order]))


def _state(found: SplitIndex, files: Sequence[File], modified: NDArray[np.uint64]) -> dict[str, str]:
    """By kind of file, SHA-256 over what shows that contents changed under the same names and lengths.

    For archives and folders, the time at which each image was modified and the bytes of up to 256 of them; for parquet,
    the digests of the shards and which column is taken. By kind, since a tar has whole seconds and the same images may
    be copied to a source of another kind.
    """
    reader = Reader(files)
    kinds = np.array(["folder" if file.kind == "flat" else file.kind for file in files])[found.places["file"]]
    digests = {str(kind): hashlib.sha256() for kind in np.unique(kinds)}
    for kind, total in digests.items():
        samples = np.flatnonzero(kinds == kind)
        if kind == "parquet":
            shards = [files[file] for file in np.unique(found.places["file"][samples])]
            total.update("".join(sorted(f"{shard.digest} {shard.column}\n" for shard in shards)).encode())
            continue
        total.update(modified[samples].astype("<u8").tobytes())
        for sample in samples[np.linspace(0, len(samples) - 1, min(len(samples), _PROBED)).astype(int)]:
            file, offset, length = found.places[sample].tolist()
            total.update(reader.read(file, offset, length, found.key(int(sample))))
    reader.close()
    return {kind: total.hexdigest() for kind, total in sorted(digests.items())}


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
            image = f"{split}/{classes[label[one]]}/{name_of(rows.names[one])}"
            raise SourceError(f"{image} is given twice", where=" and ".join(sorted(files)))


def _check_same_images(split_indexes: Sequence[SplitIndex]) -> None:
    """Betons of one split hold the same images: there must be as many resized ones as originals."""
    first: dict[str, SplitIndex] = {}
    for split_index in split_indexes:
        other = first.setdefault(split_index.split, split_index)
        if len(other) != len(split_index) or other.names != split_index.names:
            raise SourceError(
                f"{len(split_index)} images at {split_index.cap or 'full size'} but {len(other)} at "
                f"{other.cap or 'full size'}, or not the same ones",
                where=split_index.split,
                remedy="give sources with the same images",
            )
