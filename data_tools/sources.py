"""What is in the sources, from headers alone: every image of every split, in one order, with its label and place.

Sources are recognised by content: sorted tars and folders (`.../{train,validation|val}/<class>/<file>`), tars and
folders of resized images (`...-sz/{160,320,...}/{train,validation}/<class>/<file>`), the official ILSVRC archives
and Hugging Face parquet. Nothing is extracted: an image is (file, offset, length).

Classes are sorted by name and images by (class, file name), so the same pictures give the same order whatever
they came in. What is no image of a split (a README, a hidden file) is counted and named, never guessed at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools import tars
from data_tools.index import Collector, Index
from data_tools.manifest import Source
from data_tools.tars import ArchiveError

SPLITS = {"train": "train", "val": "val", "validation": "val"}


def read(paths: Sequence[Path]) -> Index:
    """The index of all sources together. Raises FileNotFoundError or ArchiveError, naming source and member."""
    from data_tools import ilsvrc

    collector = Collector()
    devkit = None
    later = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such source; --data.source takes tars, folders and parquet")
        kind = recognise(path)
        if kind == "devkit":
            devkit = ilsvrc.read_devkit(path)
        elif kind == "ilsvrc val":
            later.append(path)
        else:
            _READERS[kind](collector, path)
        if kind not in ("folder", "parquet"):
            collector.sources.append(Source(name=path.name, bytes=path.stat().st_size))
    for path in later:
        ilsvrc.read_val(collector, path, devkit)
    if not collector.rows:
        names = ", ".join(str(path) for path in paths)
        raise ArchiveError(f"{names}: no images at .../{{train,val}}/<class>/<file>{_example(collector)}")
    return collector.index()


def _example(collector: Collector) -> str:
    return f"; found {collector.ignored_example}" if collector.ignored else ""


def recognise(path: Path) -> str:
    """What a source is, by what is in it: its name is not looked at."""
    from data_tools import ilsvrc

    if path.is_dir():
        shards = next(parquet_shards(path), None)
        return "parquet" if shards else "folder"
    with path.open("rb") as file:
        start = file.read(tars.BLOCK)
    if start.startswith(b"\x1f\x8b"):
        if ilsvrc.is_devkit(path):
            return "devkit"
        raise ArchiveError(f"{path}: compressed with gzip, so it cannot be read in place; gunzip it once")
    if start.startswith(b"PAR1"):
        return "parquet"
    if len(start) < tars.BLOCK or not tars.looks_like_tar(start):
        raise ArchiveError(f"{path}: neither a tar, a folder, parquet nor the ILSVRC devkit, or cut short")
    return ilsvrc.recognise(path) or "tar"


def parquet_shards(folder: Path) -> Iterator[Path]:
    """The shards right in a folder or in its `data` folder, as the Hugging Face hub lays them out."""
    for pattern in ("*.parquet", "data/*.parquet"):
        yield from sorted(folder.glob(pattern))


# ---------------------------------------------------------------------------------------------- layouts
def locate(name: str) -> tuple[str, int | None, str, str] | None:
    """(split, cap, class, file) of a path `.../[x-sz/<cap>/]<split>/<class>/<file>`; None if it is none."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) < 3 or parts[-3] not in SPLITS or parts[-1].startswith(".") or parts[-2].startswith("."):
        return None
    resized = len(parts) >= 5 and parts[-4].isdecimal() and (parts[-5] == "sz" or parts[-5].endswith("-sz"))
    return SPLITS[parts[-3]], int(parts[-4]) if resized else None, parts[-2], parts[-1]


def _read_tar(collector: Collector, path: Path) -> None:
    file = collector.file("archive", path)
    for member in tars.members(path):
        found = locate(member.name)
        if found is None:
            collector.ignore(f"{path}: {member.name}")
        else:
            collector.add(*found, file, member.offset, member.length)


def _read_folder(collector: Collector, root: Path) -> None:
    """A tree of the same layout. Links within it are refused, as in an archive: nothing outside is read."""
    total, groups = 0, {}
    above = "/".join(root.resolve().parts[-2:])  # x-sz/160 may be what was given
    for entry in _files_below(root):
        name = f"{above}/{os.path.relpath(entry.path, root)}"
        found = locate(name)
        if found is None:
            collector.ignore(entry.path)
            continue
        split_folder = Path(entry.path).parent.parent
        if split_folder not in groups:
            groups[split_folder] = collector.file("folder", split_folder)
        length = entry.stat(follow_symlinks=False).st_size
        collector.add(*found, groups[split_folder], 0, length)
        total += length
    collector.sources.append(Source(name=root.resolve().name, bytes=total))


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_symlink():
                raise ArchiveError(f"{entry.path}: a symbolic link, which is not followed; give what it points to")
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry
            else:
                raise ArchiveError(f"{entry.path}: neither a file nor a folder, which is refused")


def _read_ilsvrc_train(collector: Collector, path: Path) -> None:
    from data_tools import ilsvrc

    ilsvrc.read_train(collector, path)


def _read_parquet(collector: Collector, path: Path) -> None:
    from data_tools import parquet

    shards = list(parquet_shards(path)) if path.is_dir() else [path]
    parquet.read(collector, shards)


_READERS = {
    "tar": _read_tar,
    "folder": _read_folder,
    "ilsvrc train": _read_ilsvrc_train,
    "parquet": _read_parquet,
}
