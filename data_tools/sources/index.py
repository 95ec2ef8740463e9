"""The index: every image of every split in one order, with its label and location, in a few dozen bytes an image."""

import hashlib
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.classes import classes_digest
from data_tools.beton.manifest import Source
from data_tools.common.names import name_bytes, name_of
from data_tools.sources.listing import Images
from data_tools.sources.reader import File, Reader
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
    """Everything in the sources. notes: lines for the reader, such as what was left out."""

    classes: tuple[str, ...]
    split_indexes: tuple[SplitIndex, ...]
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()

    def images(self) -> dict[str, int]:
        return {split_index.split: len(split_index) for split_index in self.split_indexes}


class IndexBuilder:
    """Collects what the readers of all kinds of source find; images of splits that are not wanted are dropped.

    rows: by split and cap, the images of each class. left_out: by reason, how many are not taken, and one of them.
    """

    def __init__(self, splits: Sequence[str] = SPLITS) -> None:
        self.splits = splits
        self.files: list[File] = []
        self.rows: dict[tuple[str, int | None], dict[str, Images]] = {}
        self.sources: list[Source] = []
        self.left_out: dict[str, tuple[int, str]] = {}
        self.notes: list[str] = []
        self.class_order: Sequence[str] = ()  # by label; if there is none, it is that of their names

    def images(self, split: str, cap: int | None, name: str) -> Images:
        """The images of a class, to add to."""
        return self.rows.setdefault((split, cap), {}).setdefault(name, Images())

    def take(self, split: str, cap: int | None, name: str, images: Images, below: str = "") -> None:
        """Add images to a class; they must not be used afterwards. below: folders that become a part of their names."""
        if split not in self.splits or not images.names:
            return
        if below:
            images.names = [name_bytes(below) + b"/" + each for each in images.names]
        mine = self.rows.setdefault((split, cap), {}).setdefault(name, images)
        if mine is not images:
            mine.extend(images)

    def leave_out(self, reason: str, example: object, count: int = 1) -> None:
        if count:
            before, first = self.left_out.get(reason, (0, str(example)))
            self.left_out[reason] = before + count, first

    def left_out_lines(self) -> list[str]:
        return [f"{reason} left out: {count:,}, e.g. {first}" for reason, (count, first) in self.left_out.items()]

    def _classes(self) -> tuple[str, ...]:
        """The names of all classes, by label."""
        names = {name for classes in self.rows.values() for name in classes}
        if not self.class_order:
            if names == set(map(str, range(len(names)))):
                if len(names) > 10:  # with fewer, this is the order of the names, too
                    self.notes.append(f"the classes 0 to {len(names) - 1} are numbered by their value")
                return tuple(sorted(names, key=int))
            return tuple(sorted(names))  # by code point, so that the order does not depend on the locale
        if others := sorted(names.difference(self.class_order)):
            what = f"class {others[0]} is not a class of the parquet: {', '.join(self.class_order[:5])}, ..."
            raise SourceError(what, remedy="give sources with the same classes")
        return tuple(name for name in self.class_order if name in names)

    def _join_forms(self) -> None:
        """Make one class of names that differ in their Unicode form alone: macOS unpacks `é` as two characters."""
        forms: dict[str, set[str]] = {}
        for name in (name for classes in self.rows.values() for name in classes):
            forms.setdefault(unicodedata.normalize("NFC", name), set()).add(name)
        for joined, names in forms.items():
            if len(names) == 1:
                continue
            self.notes.append(f"{joined} is written in two Unicode forms; they are one class")
            for split, cap in self.rows:
                for name in sorted(names & self.rows[split, cap].keys()):
                    self.take(split, cap, joined, self.rows[split, cap].pop(name))

    def index(self) -> Index:
        self._join_forms()
        classes = self._classes()
        split_indexes = [
            _split_index(self.files, split, cap, classes, self.rows.pop((split, cap)))
            for split, cap in sorted(self.rows, key=str)
        ]
        _check_same_images(split_indexes)
        return Index(
            classes=classes,
            split_indexes=tuple(split_indexes),
            files=tuple(self.files),
            sources=tuple(self.sources),
            notes=(*self.notes, *self.left_out_lines()),
        )


# ---------------------------------------------------------------------------------------------- ordering
def _split_index(
    files: Sequence[File], split: str, cap: int | None, classes: tuple[str, ...], by_class: dict[str, Images]
) -> SplitIndex:
    labels = [label for label, name in enumerate(classes) if name in by_class]
    counts = [len(by_class[classes[label]].names) for label in labels]
    places, modified = np.empty(sum(counts), PLACE), np.empty(sum(counts), np.uint64)
    names: list[bytes] = []
    for label in labels:
        images = by_class.pop(classes[label])
        # Class by class: one sort key for each of a million images would take 200 MB.
        order = np.array(sorted(range(len(images.names)), key=images.names.__getitem__))
        part = slice(len(names), len(names) + len(order))
        for key, values in (("file", images.files), ("offset", images.offsets), ("length", images.lengths)):
            places[key][part] = np.array(values, np.uint64)[order]
        modified[part] = np.array(images.modified, np.uint64)[order]
        names += [images.names[row] for row in order]
        _check_duplicates(f"{split}/{classes[label]}", names[part], [files[file] for file in places["file"][part]])
    ends = np.cumsum(np.fromiter(map(len, names), np.uint64, len(names)), dtype=np.uint64)
    is_parquet = np.array([file.kind == "parquet" for file in files])
    storage_order = np.lexsort((places["offset"], places["file"])) if is_parquet[places["file"]].any() else None
    numbers = np.repeat(np.array(labels, np.uint32), counts)
    found = SplitIndex(split, cap, classes, numbers, places, b"".join(names), ends, storage_order)
    return replace(found, state=_state(found, files, modified))


def _check_duplicates(folder: str, names: Sequence[bytes], files: Sequence[File]) -> None:
    """`names` are sorted; `files`: that of each."""
    for at, (one, two) in enumerate(itertools.pairwise(names)):
        if one == two:
            where = " and ".join(sorted({files[at].path, files[at + 1].path}))
            raise SourceError(f"{folder}/{name_of(one)} is given twice", where=where)


def _state(found: SplitIndex, files: Sequence[File], modified: NDArray[np.uint64]) -> dict[str, str]:
    """By kind of file, SHA-256 over what shows that contents changed under the same names and lengths.

    For archives and folders, the time at which each image was modified and the bytes of up to 256 of them; for parquet,
    the digests of the shards and which column is taken. By kind, since a tar has whole seconds and the same images may
    be copied to a source of another kind.
    """
    reader = Reader(files)
    kinds = np.array([file.kind for file in files])[found.places["file"]]
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
