"""Images in a tar or in a folder, where `layouts` finds them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.file_kinds import has_image_name, is_hidden, special_kind
from data_tools.common.names import from_path
from data_tools.sources import ilsvrc
from data_tools.sources.index import IndexBuilder
from data_tools.sources.layouts import SPLIT_FOLDERS, TINY_IMAGES, Folders, Location, Tree, locate
from data_tools.sources.tar import SourceError, members

_LEADING = ("ILSVRC", "Data", "CLS-LOC", "sz")  # folders in front of the splits, in Kaggle's copy and in resized sets

Chain = tuple[tuple[int, int], ...]  # device and inode of the folders that one lies in


def read_tar(builder: IndexBuilder, path: Path) -> Tree:
    """What a tar holds. Raises SourceError."""
    tree, number = Tree(path), builder.file("archive", path)
    with path.open("rb") as file:
        for member in members(path):
            *folders, name = ilsvrc.parts(member.name)
            where, read = f"{path}: {member.name}", ilsvrc.start_of(file.fileno(), member)
            if location := tree.sort_in(tuple(folders), name, where, read):
                tree.add(location, name, where, number, member.offset, member.length, member.modified)
    builder.sources.append(Source(name=from_path(path.name), bytes=path.stat().st_size))
    return tree


def read_folder(builder: IndexBuilder, root: Path, follow_links: bool = False) -> Tree:
    """What a folder holds; it may be the folder of one split.

    Links to the folders of splits and classes are followed, those to images with `follow_links`. Raises SourceError.
    """
    names = (root.absolute(), root.resolve())  # it may be a link
    reader = _FolderReader(builder, Tree(root, tuple(name.parts[-2:] for name in names)), follow_links)
    reader.read(root, (), ())
    split_folder = next((name.name for name in names if name.name.lower() in SPLIT_FOLDERS), "")
    if split_folder and not reader.tree.groups:
        above = tuple(name.parent.parts[-2:] for name in names)
        reader = _FolderReader(builder, Tree(root, above), follow_links)
        reader.read(root, (split_folder,), ())
    size = reader.bytes + sum(map(len, reader.tree.label_files.values()))
    builder.sources.append(Source(name=from_path(names[1].name), bytes=size))
    return reader.tree


@dataclass(slots=True)
class _FolderReader:
    builder: IndexBuilder
    tree: Tree
    follow_links: bool
    bytes: int = 0
    numbers: dict[Path, int] = field(default_factory=dict)  # of the folders that images are read from

    def read(self, folder: Path, folders: Folders, chain: Chain) -> None:
        """`folders`: the path of `folder` below the root. Raises SourceError at a link in a loop."""
        info = folder.stat()
        if (info.st_dev, info.st_ino) in chain:
            raise SourceError("a link to a folder that contains it", where=folder, remedy="remove it")
        chain = (*chain, (info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            if entry.is_symlink():
                self._read_link(entry, folder, folders, chain)
            elif entry.is_dir():
                self.read(Path(entry.path), (*folders, from_path(entry.name)), chain)
            elif entry.is_file():
                if location := self.tree.sort_in(folders, from_path(entry.name), entry.path, _start_of(entry)):
                    self._add(location, entry, folder)
            else:
                self._read_special(entry, folders)

    def _read_link(self, entry: os.DirEntry[str], folder: Path, folders: Folders, chain: Chain) -> None:
        inside = (*folders, from_path(entry.name))
        try:
            mode = entry.stat().st_mode
        except OSError:  # its target is missing, or it leads to itself
            in_place = locate(folders if has_image_name(entry.name) else inside, self.tree.above)
            self._refuse(in_place, entry, "a broken link", "fix it or remove it")
            return
        if stat.S_ISDIR(mode):
            if locate(inside, self.tree.above) or entry.name in _LEADING or _is_sized(inside):
                self.read(Path(entry.path), inside, chain)
            else:
                self.tree.ignore(f"{entry.path}, a link")
        elif not stat.S_ISREG(mode):
            self._read_special(entry, folders)
        elif location := self.tree.sort_in(folders, from_path(entry.name), entry.path, _start_of(entry)):
            if self.follow_links:
                self._add(location, entry, folder)
            else:
                remedy = "--data.follow_links=true follows links to images"
                self.tree.refuse(location, entry.path, "a symbolic link", remedy)

    def _read_special(self, entry: os.DirEntry[str], folders: Folders) -> None:
        in_place = locate(folders, self.tree.above) if has_image_name(entry.name) else None
        self._refuse(in_place, entry, f"{special_kind(entry.stat().st_mode)}, not a file", "remove it")

    def _refuse(self, location: Location | None, entry: os.DirEntry[str], what: str, remedy: str) -> None:
        """Stop if it is where images belong; ignore it elsewhere."""
        if location is None or is_hidden([entry.name]):
            self.tree.ignore(entry.path)
        else:
            self.tree.refuse(location, entry.path, what, remedy)

    def _add(self, location: Location, entry: os.DirEntry[str], folder: Path) -> None:
        by_class = location.group.layout == "class" and location.label != TINY_IMAGES
        where = folder.parent if by_class else folder
        if where not in self.numbers:
            self.numbers[where] = self.builder.file("folder" if by_class else "flat", where)
        status = entry.stat()
        name, number = from_path(entry.name), self.numbers[where]
        self.tree.add(location, name, entry.path, number, 0, status.st_size, status.st_mtime_ns)
        self.bytes += status.st_size


def _is_sized(folders: Folders) -> bool:
    """Whether these are `x-sz` or `x-sz/<cap>`."""
    return folders[-1].endswith("-sz") or (folders[-1].isdecimal() and len(folders) > 1 and _is_sized(folders[:-1]))


def _start_of(entry: os.DirEntry[str]) -> Callable[[int], bytes]:
    return partial(_start, entry)


def _start(entry: os.DirEntry[str], count: int) -> bytes:
    with Path(entry.path).open("rb") as file:
        return file.read(count)
