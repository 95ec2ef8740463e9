"""The index of parquet shards: which belong to the source, of which split, and which classes their labels are.

A class is a label, whatever it is called. It is named as in ImageNet if the file names say how, else as the data set
does, else by its number; names are settled when the labels of all shards are known.
"""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.sources.index import IndexBuilder
from data_tools.sources.parquet import Columns, Table, digest
from data_tools.sources.tar import SourceError

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
# ImageNet on the hub carries the wnid in the file's name: n01440764_10026_n01440764.JPEG
_WITH_WNID = re.compile(r"(?P<stem>.+)_(?P<wnid>n\d{8})(?P<suffix>\.\w+)")
_TRAIN_NAME = re.compile(r"(?P<wnid>n\d{8})_\d+\.\w+")


@dataclass(frozen=True, slots=True)
class _Shard:
    """The rows of a shard that have a label."""

    split: str
    file: int
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------- which shards
def shards_in(folder: Path) -> Iterator[Path]:
    """The shards in a folder, and where the hub has them: `data/`, `<configuration>/`, and `<split>/` in these."""
    yield from _tables(folder)
    for child in _folders(folder):
        yield from _tables(child)
        for below in _folders(child):
            if _split_of_folder(below.name):
                yield from _tables(below)


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if path.is_file() and not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:  # as a disk's lost+found
        # Path's is_dir says no to a link in a loop, where the entry's raises.
        return sorted(Path(entry) for entry in entries if Path(entry).is_dir() and not entry.name.startswith("."))
    return []


def holds_shards(folder: Path) -> bool:
    """Whether the folder holds tables with images; others, such as a `metadata.parquet`, lie beside image files."""
    return any(_may_hold_images(shard) for shard in shards_in(folder))


def check_columns(shard: Path, image_column: str | None, label_column: str | None) -> None:
    """Raise SourceError, naming the columns, if it is unclear which of them hold images and labels."""
    with Table(shard) as table:
        table.columns(image_column, label_column)


def _may_hold_images(shard: Path) -> bool:
    with Table(shard) as table:
        return table.may_hold_images()


def _split_of(shard: Path) -> str:
    """The split by the shard's name (train-00000-of-00294.parquet), else by that of its folder."""
    split = _split_in(shard.name) or _split_of_folder(shard.absolute().parent.name)
    if not split:
        raise SourceError("its split is unknown; name it train-*.parquet or validation-*.parquet", where=shard)
    return split


def _split_in(name: str) -> str:
    """The split that a name begins with, or the only one among its words; "" if there is none."""
    words = re.findall(r"[a-z]+", name.lower())
    splits = [_SPLITS[word] for word in words if word in _SPLITS]
    return splits[0] if splits and (words[0] in _SPLITS or len(set(splits)) == 1) else ""


def _split_of_folder(name: str) -> str:
    """The split of `train`, of `partial-train` where the hub converted a part, and of Spark's `train.parquet`."""
    return _SPLITS.get(name.lower().removeprefix("partial-").removesuffix(".parquet"), "")


def _image_shards(builder: IndexBuilder, source: Path) -> list[tuple[str, Path]]:
    """(split, shard) of a source. Shards of test splits, and other tables without images, are left out."""
    if not source.is_dir():
        found = [source]
    else:
        found = [shard for shard in shards_in(source) if _may_hold_images(shard)]
        for other in sorted(set(shards_in(source)) - set(found)):
            builder.ignore(f"{other}, which holds no images")
    shards = [(_split_of(shard), shard) for shard in found]
    for split, shard in shards:
        if split == "test":
            builder.ignore(f"{shard}, of a test split")
    shards = [(split, shard) for split, shard in shards if split != "test"]
    if len(configurations := sorted({_configuration(source, shard) for _, shard in shards})) > 1:
        raise SourceError(
            f"it holds several data sets: {', '.join(configurations)}",
            where=source,
            remedy=f"give one of them, as --data.source={source / configurations[-1]}",
        )
    return shards


def _configuration(source: Path, shard: Path) -> str:
    """The hub's name for one of the data sets of a repository: a folder that is neither `data` nor a split."""
    if shard == source:
        return ""
    folders = shard.relative_to(source).parent.parts
    return "/".join(name for name in folders if name != "data" and not _split_of_folder(name))


# ---------------------------------------------------------------------------------------------- reading
def read(builder: IndexBuilder, sources: Sequence[Path], image_column: str | None, label_column: str | None) -> None:
    """Index the shards of all parquet sources together, so that a label is one class in all of them.

    Raises SourceError for a damaged shard, or one whose split, columns or labels are unclear.
    """
    classes, shards = _Classes(), []
    seen: dict[tuple[str, str], Path] = {}
    for source in sources:
        for split, path in _image_shards(builder, source):
            with Table(path) as table:
                content = digest(path)
                columns = table.columns(image_column, label_column)
                # A copy under another name counts, too, unless its images have no names by which to tell.
                same = content if table.has_paths(columns) else str(path.resolve())
                if (other := seen.setdefault((split, same), path)) is not path:
                    raise SourceError("the same shard is given twice", where=f"{other} and {path}")
                shard = _Shard(split, builder.file("parquet", path, column=columns.image, digest=content))
                classes.add_names(path, table.class_names(columns.label))
                _read_rows(builder, table, columns, shard, classes)
            shards.append(shard)
            name = path.relative_to(source).as_posix() if path != source else path.name
            builder.sources.append(Source(name=name, bytes=path.stat().st_size))
    names = classes.names()
    if not classes.are_wnids:  # ImageNet's own file names are unique: one that repeats is an image given twice
        _tell_apart_files(shards)
    for shard in shards:
        for offset, label, name in zip(shard.offsets, shard.labels, shard.names, strict=True):
            builder.add(shard.split, None, names[label], name, shard.file, offset, 0)
        shard.names.clear()  # the builder has them
    if classes.by_number:
        builder.order_classes(names[label] for label in sorted(names))


def _read_rows(builder: IndexBuilder, table: Table, columns: Columns, shard: _Shard, classes: _Classes) -> None:
    for offset, path, label in table.paths_and_labels(columns):
        if label is None:
            builder.leave_out("rows without a label", table.path)
            continue
        name, wnid = _name_and_wnid(path)
        shard.names.append(name or f"{table.path.stem}_{offset:012d}")
        shard.offsets.append(offset)
        shard.labels.append(classes.number(table.path, label, wnid))


def _name_and_wnid(path: str) -> tuple[str, str]:
    """The file's name as in the official archives, and its wnid if the name contains one."""
    name = path.rsplit("/", 1)[-1]
    if match := _WITH_WNID.fullmatch(name):
        return match["stem"] + match["suffix"], match["wnid"]
    match = _TRAIN_NAME.fullmatch(name)
    return name, match["wnid"] if match else ""


# ---------------------------------------------------------------------------------------------- classes
class _Classes:
    """The labels of a conversion, and what they are called."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}  # labels that are texts, numbered as they come
        self._numbers: set[int] = set()
        self._wnids: dict[int, str] = {}
        self._names: tuple[list[str], Path | None] = [], None
        self._other_names: Path | None = None
        self._first: Path | None = None

    def add_names(self, shard: Path, names: list[str]) -> None:
        if names and not self._names[0]:
            self._names = names, shard
        elif names and names != self._names[0]:
            self._other_names = self._other_names or shard

    def number(self, shard: Path, label: int | str, wnid: str) -> int:
        self._first = self._first or shard
        number = label if isinstance(label, int) else self._texts.setdefault(label, len(self._texts))
        if isinstance(label, int):
            self._numbers.add(label)
        if self._texts and self._numbers:
            where = f"{self._first} and {shard}"
            raise SourceError(
                "labels are both numbers and text", where=where, remedy="are these shards of one data set?"
            )
        if wnid and self._wnids.setdefault(number, wnid) != wnid:
            what = f"label {label} is both {self._wnids[number]} and {wnid}"
            raise SourceError(what, where=shard, remedy="are these shards of one data set?")
        return number

    @property
    def are_wnids(self) -> bool:
        """Whether the file names say the wnid of every label."""
        labels = self._numbers or set(self._texts.values())
        return bool(labels) and labels <= self._wnids.keys()

    @property
    def by_number(self) -> bool:
        """Whether classes are in the order of their labels, and not of their names."""
        return not self.are_wnids and not self._texts

    def names(self) -> dict[int, str]:
        """The name of each label. Raises SourceError if the shards contradict each other."""
        if self.are_wnids:
            if repeated := [wnid for wnid, count in Counter(self._wnids.values()).items() if count > 1]:
                labels = sorted(label for label, wnid in self._wnids.items() if wnid == repeated[0])
                what = f"{repeated[0]} is both label {labels[0]} and label {labels[1]}"
                raise SourceError(what, where=self._first or "", remedy="are these shards of one data set?")
            return self._wnids
        if self._texts:
            by_rank = dict(enumerate(sorted(self._texts)))
            told_apart = _told_apart(by_rank)
            return {self._texts[text]: told_apart[rank] for rank, text in by_rank.items()}
        if self._other_names:
            where = f"{self._names[1]} and {self._other_names}"
            raise SourceError(
                "they name their labels differently", where=where, remedy="are these shards of one data set?"
            )
        width = len(str(max(self._numbers, default=0)))
        named = dict(enumerate(self._names[0]))
        numbers = {label: f"{label:0{width}d}" for label in self._numbers | named.keys()}
        told_apart = _told_apart({label: named.get(label) or number for label, number in numbers.items()})
        return {label: told_apart[label] for label in self._numbers}


def _told_apart(names: dict[int, str]) -> dict[int, str]:
    """Names in which no two labels are the same: one that repeats is followed by its label, as `crane (134)`.

    A "/" becomes "_", since images are named class/file.
    """
    names = {label: name.replace("/", "_") for label, name in names.items()}
    while repeated := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {label: f"{name} ({label})" if name in repeated else name for label, name in names.items()}
    return names


# ---------------------------------------------------------------------------------------------- files
def _tell_apart_files(shards: Iterable[_Shard]) -> None:
    """Number the names that repeat within a class of a split, in the order of the rows: `1.png`, `1 (2).png`."""
    shards = list(shards)
    seen: set[int] = set()
    again: set[int] = set()  # hashes, since a set of a million names would take 200 MB
    for shard in shards:
        for label, name in zip(shard.labels, shard.names, strict=True):
            key = hash((shard.split, label, name))
            (again if key in seen else seen).add(key)
    counts: Counter[tuple[str, int, str]] = Counter()
    for shard in shards if again else ():
        for row, (label, name) in enumerate(zip(shard.labels, shard.names, strict=True)):
            if hash((shard.split, label, name)) not in again:
                continue
            counts[shard.split, label, name] += 1
            if counts[shard.split, label, name] > 1:
                stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
                key = hash((shard.split, label, name))
                while key in seen:
                    shard.names[row] = f"{stem} ({counts[shard.split, label, name]}){dot}{suffix}"
                    key = hash((shard.split, label, shard.names[row]))
                    counts[shard.split, label, name] += key in seen
                seen.add(key)
