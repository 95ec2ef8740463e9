"""What is in a folder, and which links in it are followed."""

import os
import stat
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data_tools.common.file_kinds import has_image_name, is_hidden, special_kind
from data_tools.common.names import from_path, name_bytes
from data_tools.sources.layouts import Folders, is_split_name
from data_tools.sources.listing import Listing
from data_tools.sources.reader import File
from data_tools.sources.tar import SourceError

_LEADING = ("ILSVRC", "Data", "CLS-LOC", "sz")  # folders in front of the splits, in Kaggle's copy and in resized sets
_FOLLOW = "--data.follow_links=true follows such links"

Chain = tuple[tuple[int, int], ...]  # device and inode of the folders that one lies in


def list_folder(files: list[File], root: Path, follow_links: bool = False) -> Listing:
    """What is in a folder; those that hold pictures are appended to `files`.

    Links to the folders of splits and classes are followed, those in a class with `follow_links`. Raises SourceError.
    """
    paths = (root.absolute(), root.resolve())  # it may be a link
    listing = Listing(root, tuple(tuple(map(from_path, path.parts[-3:])) for path in paths))
    is_split = any(is_split_name(path.name) for path in paths)
    is_split = is_split and not any(is_split_name(child.name) for child in root.iterdir())
    _Walk(listing, files, follow_links, ("train",) if is_split else ()).read(root, (), ())
    return listing


@dataclass(slots=True)
class _Walk:
    listing: Listing
    files: list[File]
    follow_links: bool
    front: Folders  # what the links in the folder of a split are judged by
    numbers: dict[Path, int] = field(default_factory=dict)  # of the folders that hold pictures

    def read(self, folder: Path, folders: Folders, chain: Chain) -> None:
        """`folders`: the path of `folder` below the root; `chain`: the folders above it."""
        info = folder.stat()
        if (info.st_dev, info.st_ino) in chain:
            self._refuse_link(folder, folders, "a link to a folder that contains it", "remove it")
            return
        chain = (*chain, (info.st_dev, info.st_ino))
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            if not is_hidden(folders[-1:]):  # as lost+found on a disk of its own
                raise
            self.listing.pass_over(str(folder))
            return
        if not ordered and not is_hidden(folders):
            self.listing.pass_over(str(folder), "empty folders")
        for entry in ordered:
            inside = (*folders, from_path(entry.name))
            try:
                mode = entry.stat().st_mode
            except OSError:
                if not entry.is_symlink():
                    raise
                # Its target is missing, or it leads to itself.
                path = folders if has_image_name(entry.name) else inside
                self._refuse_link(Path(entry.path), path, "a broken link", "fix it or remove it")
                continue
            if stat.S_ISDIR(mode):
                if not entry.is_symlink() or self._follows(inside):
                    self.read(Path(entry.path), inside, chain)
                elif any(map(is_split_name, (*self.front, *folders))) and not _leads_up(entry.path):
                    self.listing.refuse(inside, SourceError("a link to a folder", where=entry.path, remedy=_FOLLOW))
                else:
                    self.listing.pass_over(f"{entry.path}, a link")
            elif stat.S_ISREG(mode):
                self._add(entry, folder, folders)
            elif has_image_name(entry.name) and not is_hidden([entry.name]):
                fault = f"{special_kind(mode)}, not a file"
                self.listing.refuse(folders, SourceError(fault, where=entry.path, remedy="remove it"))
            else:
                self.listing.pass_over(entry.path)

    def _follows(self, folders: Folders) -> bool:
        """Whether a link to a folder is followed: one of a split, of a class or in front of these."""
        path = (*self.front, *folders)
        in_place = any(map(is_split_name, path if self.follow_links else path[-2:]))
        return in_place or folders[-1] in _LEADING or _is_sized(folders)

    def _refuse_link(self, link: Path, folders: Folders, what: str, remedy: str) -> None:
        """Note a link that leads nowhere where pictures should be; pass over any other."""
        path = (*self.front, *folders)
        in_place = any(map(is_split_name, path if has_image_name(link.name) else path[-2:]))
        if in_place and not is_hidden([link.name]):
            self.listing.refuse(folders, SourceError(what, where=link, remedy=remedy))
        else:
            self.listing.pass_over(str(link))

    def _add(self, entry: os.DirEntry[str], folder: Path, folders: Folders) -> None:
        name = from_path(entry.name)
        if not self.listing.holds_image(folders, name, entry.path, partial(_start, entry.path)):
            return
        if entry.is_symlink() and not self.follow_links:
            self.listing.refuse(folders, SourceError("a symbolic link", where=entry.path, remedy=_FOLLOW))
            return
        if folder not in self.numbers:
            self.numbers[folder] = len(self.files)
            self.files.append(File("folder", str(folder)))
        status = entry.stat()
        place = (self.numbers[folder], 0, status.st_size, status.st_mtime_ns)
        self.listing.images(folders).add(name_bytes(name), *place)


def _is_sized(folders: Folders) -> bool:
    """Whether these are `x-sz` or `x-sz/<cap>`."""
    return folders[-1].endswith("-sz") or (folders[-1].isdecimal() and len(folders) > 1 and _is_sized(folders[:-1]))


def _leads_up(link: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return Path(link).parent.resolve().is_relative_to(Path(link).resolve())


def _start(path: str, count: int) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(count)
