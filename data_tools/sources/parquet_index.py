"""The index of parquet shards: which belong to the source, of which split, and which classes their labels are.

A class is a label, whatever it is called. It is named as in ImageNet if the file names say how, else as the data set
does, else by its number; names are settled when the labels of all shards are known.
"""

import itertools
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.file_kinds import has_image_name, is_hidden
from data_tools.common.names import name_bytes
from data_tools.sources.index import IndexBuilder
from data_tools.sources.layouts import SPLIT_NAMES, split_in_name
from data_tools.sources.listing import OTHER_FILES, Images
from data_tools.sources.parquet import Table, digest
from data_tools.sources.reader import File
from data_tools.sources.tar import SourceError

ONE_DATA_SET = "give shards of one data set"
# ImageNet on the hub carries the wnid in the file's name: n01440764_10026_n01440764.JPEG
_WITH_WNID = re.compile(r"(?P<stem>.+)_(?P<wnid>n\d{8})(?P<suffix>\.\w+)")
_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)\b")
_TRAIN_NAME = re.compile(r"(?P<wnid>n\d{8})_\d+\.\w+")

Label = int | str


# ---------------------------------------------------------------------------------------------- which shards
def holds_shards(folder: Path) -> bool:
    """Whether there are shards where the hub has them: in the folder, in `data/` or `<configuration>/`, or in a
    `<split>/` in these. A folder of images is not searched any deeper."""
    return any(_is_shard(path) and _holds_images(path) for path in _files(folder, everywhere=False))


def _files(folder: Path, everywhere: bool = True) -> Iterator[Path]:
    """The files in a folder that are not hidden."""
    for above, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        depth = len(Path(above).relative_to(folder).parts)
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden([name]) and (everywhere or depth == 0 or (depth == 1 and _split_of_folder(name)))
        )
        yield from (Path(above, name) for name in sorted(files) if not is_hidden([name]))


def _stop(error: OSError) -> None:
    """A folder that cannot be read must not be missed."""
    raise error


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _holds_images(shard: Path) -> bool:
    """Others, such as a `metadata.parquet`, lie beside image files."""
    with closing(Table(shard)) as table:
        return table.may_hold_images()


def _split_of(shard: Path) -> str:
    """The split by the shard's name (train-00000-of-00294.parquet), else by that of its folder."""
    split = split_in_name(shard.name) or _split_of_folder(shard.absolute().parent.name)
    if not split:
        raise SourceError("its split is unknown; name it train-*.parquet or validation-*.parquet", where=shard)
    return split


def _split_of_folder(name: str) -> str:
    """The split of `train`, of `partial-train` where the hub converted a part, and of Spark's `train.parquet`."""
    return SPLIT_NAMES.get(name.lower().removeprefix("partial-").removesuffix(".parquet"), "")


def _image_shards(builder: IndexBuilder, source: Path) -> list[tuple[str, Path]]:
    """(split, shard) of a source. Shards of test splits, and whatever else is in its folder, are left out."""
    found, configurations = [], set()
    for path in _files(source) if source.is_dir() else [source]:
        if path != source and not _is_shard(path):
            builder.leave_out("images beside parquet" if has_image_name(path.name) else OTHER_FILES, path)
        elif path != source and not _holds_images(path):
            builder.leave_out(OTHER_FILES, f"{path}, which holds no images")
        elif (split := _split_of(path)) == "test":
            builder.leave_out("shards of a test split", path)
        else:
            found.append((split, path))
            # The hub's name for one of the data sets of a repository: a folder in front of `data` and those of splits.
            folders = path.relative_to(source).parts[:-1]
            before = itertools.takewhile(lambda name: name != "data" and not _split_of_folder(name), folders)
            configurations.add("/".join(before) or ".")
    if len(configurations) > 1:
        names = sorted(configurations)
        remedy = f"give one of them, as --data.source={shlex.quote(str(source / names[-1]))}"
        raise SourceError(f"it holds several data sets: {', '.join(names)}", where=source, remedy=remedy)
    return found


def _check_complete(shards: Iterable[Path]) -> None:
    """Raise SourceError if some of the shards of a set, numbered as `train-00000-of-00294`, are missing."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for shard in shards:
        if match := _NUMBERED.match(shard.name):
            numbers.setdefault((match["name"], match["count"]), set()).add(int(match["number"]))
    for (name, count), found in numbers.items():
        if len(found) < int(count):
            what = f"{len(found)} of {int(count)} shards {name}-*-of-{count}"
            raise SourceError(what, remedy="download the others, or give each of these to --data.source")


# ---------------------------------------------------------------------------------------------- reading
def read(builder: IndexBuilder, sources: Sequence[Path], image_column: str | None, label_column: str | None) -> None:
    """Index the shards of all parquet sources together, so that a label is one class in all of them.

    Raises SourceError for a damaged shard, or one whose split, columns or labels are unclear.
    """
    labels = _Labels()
    seen: dict[tuple[str, str], Path] = {}
    found = [(source, split, path) for source in sources for split, path in _image_shards(builder, source)]
    if any(map(Path.is_dir, sources)):  # who gives each shard itself may want a part
        _check_complete(path for _, split, path in found if split in builder.splits)
    for source, split, path in found:
        with closing(Table(path)) as table:
            content = digest(path)
            columns = table.columns(image_column, label_column)
            note = f"the images are in column {columns.image}, the labels in {columns.label}"
            if columns != ("image", "label") and note not in builder.notes:
                builder.notes.append(note)
            # A copy under another name counts, too, unless its images have no names by which to tell.
            same = content if table.has_paths(columns) else str(path.resolve())
            if (other := seen.setdefault((split, same), path)) is not path:
                raise SourceError("the same shard is given twice", where=f"{other} and {path}")
            builder.files.append(File("parquet", str(path), columns.image, content))
            labels.add_shard(path, table.class_names(columns.label))
            for offset, image_path, value in table.paths_and_labels(columns):
                if value is None:
                    builder.leave_out("rows without a label", path)
                    continue
                image, wnid = _name_and_wnid(image_path)
                image = image or f"{path.stem}_{offset:012d}"
                labels.images(split, value, wnid).add(name_bytes(image), len(builder.files) - 1, offset, 0)
        name = path.relative_to(source).as_posix() if path != source else path.name
        builder.sources.append(Source(name=name, bytes=path.stat().st_size))
    names = labels.names()
    for (split, label), images in labels.rows.items():
        if not labels.are_wnids:  # ImageNet's own file names are unique: one that repeats is an image given twice
            _number_repeats(images.names)
        builder.take(split, None, names[label], images)
    if labels.are_numbers and not labels.are_wnids:
        builder.class_order = [names[label] for label in sorted(names, key=int)]


def _name_and_wnid(path: str) -> tuple[str, str]:
    """The file's name as in the official archives, and its wnid if the name contains one."""
    name = path.rsplit("/", 1)[-1]
    if match := _WITH_WNID.fullmatch(name):
        return match["stem"] + match["suffix"], match["wnid"]
    match = _TRAIN_NAME.fullmatch(name)
    return name, match["wnid"] if match else ""


def _number_repeats(names: list[bytes]) -> None:
    """Number the names that repeat, in the order of the rows: `1.png`, `1 (2).png`."""
    taken, counts = set(names), Counter[bytes]()
    for at, name in enumerate(names if len(taken) < len(names) else ()):
        counts[name] += 1
        if counts[name] > 1:
            stem, dot, suffix = name.rpartition(b".") if b"." in name else (name, b"", b"")
            while (numbered := b"%b (%d)%b%b" % (stem, counts[name], dot, suffix)) in taken:
                counts[name] += 1
            names[at] = numbered
            taken.add(numbered)


# ---------------------------------------------------------------------------------------------- classes
class _Labels:
    """The labels of a conversion, what they are called, and their images."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Label], Images] = {}  # by split and label
        self._spellings: dict[Label, set[str]] = {}  # of every label
        self._kinds: set[type] = set()
        self._wnids: dict[Label, str] = {}
        self._named: list[tuple[Path, list[str]]] = []  # the different names that shards give to numbers
        self._shards: list[Path] = []

    def add_shard(self, shard: Path, names: list[str]) -> None:
        self._shards.append(shard)
        if names and all(names != others for _, others in self._named):
            self._named.append((shard, names))

    def images(self, split: str, value: Label, wnid: str) -> Images:
        """Those of a label of the shard added last; texts that differ in their Unicode form alone are one."""
        label = unicodedata.normalize("NFC", value) if isinstance(value, str) else value
        self._spellings.setdefault(label, set()).add(str(value))
        self._kinds.add(type(label))
        if len(self._kinds) > 1:
            where = f"{self._shards[0]} and {self._shards[-1]}"
            raise SourceError("labels are both numbers and text", where=where, remedy=ONE_DATA_SET)
        if wnid and self._wnids.setdefault(label, wnid) != wnid:
            what = f"label {label} is both {self._wnids[label]} and {wnid}"
            raise SourceError(what, where=self._shards[-1], remedy=ONE_DATA_SET)
        return self.rows.setdefault((split, label), Images())

    @property
    def are_wnids(self) -> bool:
        """Whether the file names say the wnid of every label."""
        return bool(self._spellings) and self._spellings.keys() <= self._wnids.keys()

    @property
    def are_numbers(self) -> bool:
        return self._kinds == {int}

    def names(self) -> dict[Label, str]:
        """The name of each label. Raises SourceError if the shards contradict each other."""
        if self.are_wnids:
            for wnid in (wnid for wnid, count in Counter(self._wnids.values()).items() if count > 1):
                one, two, *_ = (label for label, each in self._wnids.items() if each == wnid)
                what = f"{wnid} is both label {one} and label {two}"
                raise SourceError(what, where=self._shards[0], remedy=ONE_DATA_SET)
            return self._wnids
        if not self.are_numbers:
            spelled = {label: min(forms) if len(forms) == 1 else str(label) for label, forms in self._spellings.items()}
            ordered = sorted(spelled, key=spelled.__getitem__)
            apart = _told_apart({rank: spelled[label] for rank, label in enumerate(ordered)})
            return {label: apart[rank] for rank, label in enumerate(ordered)}
        if len(self._named) > 1:
            where = " and ".join(str(shard) for shard, _ in self._named[:2])
            raise SourceError("they name their labels differently", where=where, remedy=ONE_DATA_SET)
        numbers = [int(label) for label in self._spellings]
        named = dict(enumerate(self._named[0][1])) if self._named else {}
        width = len(str(max(numbers)))
        apart = _told_apart({label: named.get(label) or f"{label:0{width}d}" for label in {*numbers, *named}})
        return {label: apart[label] for label in numbers}


def _told_apart(names: dict[int, str]) -> dict[int, str]:
    """Names in which no two labels are the same: one that repeats is followed by its label, as `crane (134)`.

    A "/" becomes "_", since images are named class/file.
    """
    names = {label: name.replace("/", "_") for label, name in names.items()}
    while repeated := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {label: f"{name} ({label})" if name in repeated else name for label, name in names.items()}
    return names
