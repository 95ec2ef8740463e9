"""Which split and class the files of a tar or a folder belong to, by their paths below its root.

The split folder (`train`, `val`, ...) is the outermost one that holds images, at one depth for the whole source. In it:

- `<class>/<file>`: sorted
- `<class>/images/<file>`: as tiny-imagenet has it
- `images/<file>`, labelled by `val_annotations.txt` beside it: tiny-imagenet's validation images
- `<file>`: ILSVRC's validation images, labelled by the devkit or by Kaggle's LOC_val_solution.csv

The depth is known when all files have been seen, so they are collected first and then handed on (`Tree.parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from data_tools.common.errors import UserError
from data_tools.common.file_kinds import is_hidden, is_image, is_junk_folder
from data_tools.common.names import name_of
from data_tools.sources import ilsvrc
from data_tools.sources.index import IndexBuilder
from data_tools.sources.tar import SourceError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "val"}
TINY_IMAGES, TINY_LABELS = "images", "val_annotations.txt"

Folders = tuple[str, ...]  # of a path below the root
Above = tuple[Folders, ...]  # the last two folders of the root's own path, and of that which it is a link to
Layout = Literal["class", "nested", "ilsvrc", "flat"]  # in this order if a split folder holds several


class Group(NamedTuple):
    """Files at the same kind of path. outer: depths of folders further out that are named like a split, too."""

    depth: int  # of the split folder
    resized: bool  # below x-sz/<cap>
    split_folder: str
    layout: Layout
    outer: tuple[int, ...]


class Location(NamedTuple):
    """Where the images of a folder belong; label: empty if the path does not say it."""

    group: Group
    cap: int | None
    label: str


@dataclass(slots=True)
class Staged:
    """The images of a group. fault: why they cannot be taken, which matters only if the group is."""

    split_folder: str
    example: str
    images: IndexBuilder = field(default_factory=IndexBuilder)
    fault: UserError | None = None

    @property
    def split(self) -> str:
        return SPLIT_FOLDERS[self.split_folder]


@lru_cache(maxsize=1 << 12)  # folders of a data set, in whatever order a tar has them
def locate(folders: Folders, above: Above = ((),)) -> Location | None:
    """The location of images in this folder; None if none can be there."""
    count = len(folders)
    layouts: tuple[tuple[Layout, int], ...] = (("class", count - 2), ("nested", count - 3), ("flat", count - 1))
    for layout, depth in layouts:
        if (
            depth < 0
            or folders[depth].lower() not in SPLIT_FOLDERS
            or (layout == "nested" and folders[-1] != TINY_IMAGES)
        ):
            continue
        # Kaggle's Annotations holds an XML file for each image, in the same folders.
        if is_hidden(folders[depth:]) or is_junk_folder(folders[:depth]) or "Annotations" in folders[:depth]:
            return None
        outer = tuple(at for at in range(depth) if folders[at].lower() in SPLIT_FOLDERS)
        caps = [_cap((*front, *folders[:depth])) for front in above]
        cap = next((cap for cap in caps if cap is not None), None)
        group = Group(depth, cap is not None, folders[depth].lower(), layout, outer)
        return Location(group, cap, "" if layout == "flat" else folders[depth + 1])
    return None


def _cap(folders: Folders) -> int | None:
    """The size in px that `x-sz/<cap>` at the end says."""
    if len(folders) < 2 or not (folders[-1].isascii() and folders[-1].isdecimal()):
        return None
    return int(folders[-1]) if folders[-2] == "sz" or folders[-2].endswith("-sz") else None


class Tree:
    """Collects what one tar or folder holds."""

    def __init__(self, path: Path, above: Above = ((),)) -> None:
        self.path, self.above = path, above
        self.groups: dict[Group, Staged] = {}
        self.label_files: dict[str, bytes] = {}
        self.annotations: dict[int, dict[str, str]] = {}  # of tiny-imagenet, by depth of the split folder
        self.unlabelled: dict[str, UserError] = {}  # by split folder, why nothing is taken from it
        self.ignored = 0
        self.ignored_example = ""

    def ignore(self, name: str, count: int = 1) -> None:
        self.ignored += count
        self.ignored_example = self.ignored_example or name

    def sort_in(self, folders: Folders, name: str, where: str, read: Callable[[int], bytes]) -> Location | None:
        """The location of this file if it is an image of a split; else it is ignored, or kept for its labels.

        read: gives the first bytes of the file, at most as many as are asked for.
        """
        if name in (*ilsvrc.LABEL_FILES, TINY_LABELS):
            self._keep_labels(folders, name, read(ilsvrc.MAX_LABEL_BYTES))
            return None
        location = locate(folders, self.above)
        if ilsvrc.VAL_IMAGE.fullmatch(name):
            if not folders:  # as in ILSVRC2012_img_val.tar
                location = Location(Group(0, False, "val", "ilsvrc", ()), None, "")
            elif location and location.group.layout == "flat":
                location = location._replace(group=location.group._replace(layout="ilsvrc"))
        if location and is_image(name, read):
            return location
        self.ignore(where)
        return None

    def add(
        self, location: Location, name: str, where: str, file: int, offset: int, length: int, modified: int
    ) -> None:
        staged = self._staged(location, where)
        staged.images.add(staged.split, location.cap, location.label, name, file, offset, length, modified)

    def refuse(self, location: Location, where: str, what: str, remedy: str) -> None:
        """Stop if the images of this location are taken."""
        staged = self._staged(location, where)
        staged.fault = staged.fault or SourceError(what, where=where, remedy=remedy)

    def _staged(self, location: Location, where: str) -> Staged:
        if location.group not in self.groups:
            self.groups[location.group] = Staged(location.group.split_folder, where)
        return self.groups[location.group]

    def _keep_labels(self, folders: Folders, name: str, content: bytes) -> None:
        if name != TINY_LABELS:
            self.label_files[name] = content
        elif folders:
            rows = (line.split("\t") for line in content.decode("utf-8", "surrogateescape").splitlines())
            self.annotations[len(folders) - 1] = {_stem(row[0]): row[1] for row in rows if len(row) > 1}

    # ---------------------------------------------------------------------------------------- when all were seen
    def split_folders(self, labels: Mapping[str, str]) -> Iterator[Staged]:
        """The images of each split folder. `labels`: of ILSVRC's validation images, by name without suffix."""
        taken = self._taken()
        _check_names(self.path, taken.values())
        for group, staged in self.groups.items():
            annotated = group.layout == "class" and set(staged.images.class_ids) == {TINY_IMAGES}
            if taken.get((group.resized, group.split_folder)) is not group:
                self.ignore(staged.example, staged.images.count())
            elif group.layout == "flat":
                self.unlabelled.setdefault(staged.split_folder, staged.fault or _without_label(staged))
                self.ignore(staged.example, staged.images.count())
            elif group.layout == "ilsvrc":
                yield _labelled(staged, labels, self.path)
            elif annotated and self.annotations.get(group.depth):
                yield _labelled(staged, self.annotations[group.depth], self.path)
            else:
                yield staged

    def _taken(self) -> dict[tuple[bool, str], Group]:
        """The group of each split folder, among resized images and among others."""
        depths: dict[bool, int] = {}  # the outermost that has images by class, or has any
        for group in sorted(self.groups, key=lambda group: (group.layout in ("ilsvrc", "flat"), group.depth)):
            if not set(group.outer) & set(depths.values()):
                depths.setdefault(group.resized, group.depth)
        taken: dict[tuple[bool, str], Group] = {}
        for group in sorted(self.groups, key=lambda group: get_args(Layout).index(group.layout)):
            if depths.get(group.resized) == group.depth and not set(group.outer) & set(depths.values()):
                taken.setdefault((group.resized, group.split_folder), group)
        return taken


def _check_names(path: Path, groups: Iterable[Group]) -> None:
    for resized in (False, True):
        names = {each.split_folder for each in groups if each.resized == resized and each.layout != "flat"}
        if len(several := sorted(names & {"val", "valid", "validation"})) > 1:
            raise SourceError(
                f"{' and '.join(several)} both exist", where=path, remedy="move one of them out of the way"
            )


def _without_label(staged: Staged) -> SourceError:
    return SourceError(
        "in no class folder, so its label is not known",
        where=staged.example,
        remedy=f"sort the images into {staged.split}/<class>/, or leave that split out with --data.splits",
    )


def _labelled(staged: Staged, labels: Mapping[str, str], path: Path) -> Staged:
    """The same images, their labels looked up by name."""
    if not labels:
        staged.fault = SourceError(
            "its validation images have no labels",
            where=path,
            remedy="add ILSVRC2012_devkit_t12.tar.gz or Kaggle's LOC_val_solution.csv to --data.source",
        )
        return staged
    ids: dict[str, int] = {}
    for rows in staged.images.rows.values():
        for at, name in enumerate(rows.names):
            label = labels.get(_stem(name_of(name)))
            if label is None:
                staged.fault = SourceError(
                    f"no label for {name_of(name)}; there are labels for images 1 to {len(labels)}", where=path
                )
                return staged
            rows.classes[at] = ids.setdefault(label, len(ids))
    staged.images.class_ids = ids
    return staged


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
