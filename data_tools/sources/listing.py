"""What is in a tar or a folder: every picture by folder and name, and where its bytes are.

Nothing is decided here about splits and classes: that is for `layouts`, which sees the names alone. Nothing is
extracted: a picture is (file, offset, length).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from data_tools.common.errors import UserError
from data_tools.common.file_kinds import is_hidden, is_image
from data_tools.common.names import name_bytes
from data_tools.sources.layouts import Folders, is_split_name, split_in_name
from data_tools.sources.reader import File
from data_tools.sources.tar import COPY_AGAIN, Member, SourceError, members

TINY_LABELS = "val_annotations.txt"
TRUTH, SYNSETS, KAGGLE_LABELS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
LABEL_FILES = frozenset((TINY_LABELS, TRUTH, SYNSETS, KAGGLE_LABELS))
OTHER_FILES, ARCHIVES = "other files", "archives that are not unpacked"
_ARCHIVE = re.compile(r"[^.].*\.(tar|tgz|zip|7z|rar)(\.\w+)?", re.IGNORECASE | re.DOTALL)
MAX_LABEL_BYTES = 64 << 20  # the devkit takes 2.5 MB, Kaggle's file 2.4 MB


@dataclass(slots=True)
class Images:
    """Pictures of one folder or class, in arrays: a million tuples would take a gigabyte.

    modified: times of modification, in the units of their kind of file.
    """

    files: array[int] = field(default_factory=lambda: array("L"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    modified: array[int] = field(default_factory=lambda: array("Q"))
    names: list[bytes] = field(default_factory=list)

    def add(self, name: bytes, file: int, offset: int, length: int, modified: int = 0) -> None:
        self.files.append(file)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.modified.append(modified & ((1 << 64) - 1))  # times before 1970 are negative
        self.names.append(name)

    def extend(self, other: Images) -> None:
        for column in fields(Images):
            getattr(self, column.name).extend(getattr(other, column.name))


@dataclass(slots=True)
class Listing:
    """What is in one source.

    roots: the names of the folders that it is in, by each of its own paths. pictures: by folder; one may be empty.
    label_files: contents, by path. faults: by folder, why pictures in it cannot be read. left_out: by kind, how many
    files are no pictures, and one of them.
    """

    path: Path
    roots: tuple[Folders, ...] = ((),)
    pictures: dict[Folders, Images] = field(default_factory=dict)
    label_files: dict[Folders, bytes] = field(default_factory=dict)
    faults: dict[Folders, UserError] = field(default_factory=dict)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def holds_image(self, folders: Folders, name: str, where: str, read: Callable[[int], bytes]) -> bool:
        """Whether this file is a picture. Any other is counted, or kept if it has labels.

        read: gives the first bytes of the file, at most as many as are asked for.
        """
        if name in LABEL_FILES:
            self.label_files[*folders, name] = read(MAX_LABEL_BYTES)
        elif is_image(name, read):
            return True
        else:
            self.pass_over(where, ARCHIVES if _ARCHIVE.fullmatch(name) else OTHER_FILES)
        return False

    def images(self, folders: Folders) -> Images:
        return self.pictures.setdefault(folders, Images())

    def pass_over(self, where: str, kind: str = OTHER_FILES) -> None:
        count, first = self.left_out.get(kind, (0, where))
        self.left_out[kind] = count + 1, first

    def refuse(self, folders: Folders, error: UserError) -> None:
        """Note why a picture in this folder cannot be read, which matters only if the folder is taken."""
        self.images(folders)
        self.faults.setdefault(folders, error)

    def bytes(self) -> int:
        pictures = sum(sum(images.lengths) for images in self.pictures.values())
        return pictures + sum(map(len, self.label_files.values()))


def list_tar(files: list[File], path: Path) -> Listing:
    """What is in a tar, which is appended to `files`; a tar in it is a folder of that name. Raises SourceError.

    `ILSVRC2012_img_train.tar` is such: a tar of 1000 tars, one a class. None is compressed, so an image is a range of
    bytes of the outer file.
    """
    files.append(File("archive", str(path)))
    listing, number, tars = Listing(path), len(files) - 1, list[Member]()
    for member in members(path):
        *folders, name = parts(member.name)
        if _is_tar(name):
            tars.append(member)
        else:
            _add_member(listing, number, (*folders,), member)
    for tar in tars:
        _list_inner(listing, number, tar)
    if root := split_in_name(path.name) or ("train" if tars else ""):
        listing.roots = ((root,),)  # of classes that are in no folder of a split
    return listing


def _list_inner(listing: Listing, number: int, tar: Member) -> None:
    *front, label = parts(tar.name.removesuffix(".tar"))
    where = f"{listing.path}: {label}.tar"
    if not tar.length:
        raise SourceError("empty", where=where, remedy=COPY_AGAIN)
    for member in members(listing.path, tar.offset, tar.offset + tar.length, f"{label}.tar"):
        *below, name = parts(member.name)
        if _is_tar(name):
            remedy = f"unpack {listing.path.name}, and give the tars in it"
            raise SourceError(f"a tar in a tar in a tar, {name}", where=where, remedy=remedy)
        folders = (*front, label, *below)
        if not any(map(is_split_name, folders)):
            folders = (label, *(below[1:] if below[:1] == [label] else below))
        _add_member(listing, number, folders, member)


def _is_tar(name: str) -> bool:
    return name.endswith(".tar") and not is_hidden([name])


def _add_member(listing: Listing, number: int, folders: Folders, member: Member) -> None:
    name = parts(member.name)[-1]
    if listing.holds_image(folders, name, f"{listing.path}: {member.name}", member.start):
        images = listing.images(folders)
        images.add(name_bytes(name), number, member.offset, member.length, member.modified)


def parts(name: str) -> Folders:
    """The folders of a member's name and the file, without `.`."""
    return tuple(part for part in name.split("/") if part not in ("", ".")) or (name,)
