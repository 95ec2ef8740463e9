"""Which split and class the pictures of a tar or a folder belong to: decided from their paths alone.

The folder of a split (`train`, `val`, ...) is the outermost one with such a name, at one depth for the whole source. In
it, a picture belongs to the class of its outermost folder, however deep it lies in that (as torchvision's ImageFolder
has it). Three data sets are known by their own form:

- tiny-imagenet: `<class>/images/<file>`, and `images/<file>` labelled by the `val_annotations.txt` beside it
- ILSVRC's validation images: `<file>` in no class, labelled by the devkit or by Kaggle's LOC_val_solution.csv
- resized images: `x-sz/<cap>/<split>/...`
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_tools.common.errors import UserError
from data_tools.common.file_kinds import is_hidden, is_junk_folder
from data_tools.sources.tar import SourceError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_NAMES |= {"test": "test", "testing": "test"}
VAL_IMAGE = re.compile(rb"ILSVRC2012_val_\d{8}\.JPEG")
HIDDEN, OUT_OF_PLACE = "images in hidden folders", "images in no folder of a split and class"
IMAGES = "images"  # tiny-imagenet's folder in each class
# Folders of data sets for detection and segmentation, in place of classes.
_NOT_CLASSES = re.compile(
    r"(jpeg)?(image|img)s?(_\d)?|labels?(_\d)?|annotations?|masks?|gt|ground_?truth|segmentation(class|object)?", re.I
)
_SORTED = "sort the images into {0}/<class>/, or leave that split out with --data.splits"

Folders = tuple[str, ...]  # of a path below the root
Pictures = Mapping[Folders, Sequence[bytes]]  # the names of files, by the path of their folder


class Place(NamedTuple):
    """Where the pictures of a folder belong. label: None if only the files' names say it. below: folders in the class
    that the picture is in, a part of its name."""

    split: str  # train, val or test
    cap: int | None
    label: str | None
    below: Folders = ()


@dataclass(slots=True)
class SourceLayout:
    """Where every folder of pictures belongs.

    left_out: folders that belong nowhere, and why. faults: by split, why it cannot be taken. unlabelled: the same for
    pictures in no class.
    """

    places: dict[Folders, Place] = field(default_factory=dict)
    left_out: dict[Folders, str] = field(default_factory=dict)
    faults: dict[str, UserError] = field(default_factory=dict)
    unlabelled: dict[str, UserError] = field(default_factory=dict)


def is_split_name(name: str) -> bool:
    return name.lower() in SPLIT_NAMES


def split_in_name(name: str) -> str:
    """The split that a file's name says: of `train-00000-of-00294.parquet`, `train`; empty if it is not clear."""
    words = re.findall(r"[a-z]+", name.lower())
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    return splits[0] if splits and (words[0] in SPLIT_NAMES or len(set(splits)) == 1) else ""


def classify(pictures: Pictures, roots: Sequence[Folders] = ((),), annotated: Collection[Folders] = ()) -> SourceLayout:
    """The layout of a source.

    roots: the names of the folders that the source is in; a folder of one split may be given itself. annotated: the
    folders of splits that have a val_annotations.txt.
    """
    layout = SourceLayout()
    depths = _depths(pictures, layout)
    root = next((root for root in roots if root and is_split_name(root[-1])), ())
    labelled = any(len(path) > depth + 1 or is_numbered(pictures[path]) for path, depth in depths.items())
    if root and OUT_OF_PLACE in layout.left_out.values() and not labelled:
        return _inside_split(root[-1], pictures, [root[:-1] for root in roots], annotated)
    caps = {path: _cap(path[:depth], roots) for path, depth in depths.items()}
    smallest: dict[int | None, int] = {}  # depth of a split's folder with classes, else of any, by cap
    for path, depth in sorted(depths.items(), key=lambda item: (len(item[0]) == item[1] + 1, item[1])):
        smallest.setdefault(caps[path], depth)
    splits: dict[Place, list[Folders]] = {}
    for path, depth in depths.items():
        if depth == smallest[caps[path]]:
            place = Place(SPLIT_NAMES[path[depth].lower()], caps[path], None)
            splits.setdefault(place, []).append(path)
        else:
            layout.left_out[path] = OUT_OF_PLACE
    for place, found in splits.items():
        _place(layout, place, smallest[place.cap] + 1, found, pictures, annotated)
    return layout


def _inside_split(
    name: str, pictures: Pictures, roots: Sequence[Folders], annotated: Collection[Folders]
) -> SourceLayout:
    """The layout of a source that is itself the folder of a split."""
    inside = {(name, *path): names for path, names in pictures.items()}
    layout = classify(inside, roots, [(name, *path) for path in annotated])
    layout.places = {path[1:]: place for path, place in layout.places.items()}
    layout.left_out = {path[1:]: why for path, why in layout.left_out.items()}
    return layout


# ---------------------------------------------------------------------------------------------- the folders of splits
def _depths(pictures: Pictures, layout: SourceLayout) -> dict[Folders, int]:
    """How deep in each path the folder of its split is. Others go to the layout."""
    depths: dict[Folders, int] = {}
    for path, names in pictures.items():
        depth = _next_split(path, 0)
        front, rest = path[: depth or 0], path[depth or 0 :]
        if is_junk_folder(front) or is_hidden(rest):
            layout.left_out[path] = HIDDEN
        elif not path and is_numbered(names):  # as in ILSVRC2012_img_val.tar
            layout.places[path] = Place("val", None, None)
        elif depth is None:
            layout.left_out[path] = OUT_OF_PLACE
        else:
            depths[path] = depth
    while in_front := _in_front(depths):
        depths |= in_front
    return depths


def _in_front(depths: Mapping[Folders, int]) -> dict[Folders, int]:
    """Paths whose outermost split folder is none, with the depth of the next: all classes in it lie in splits further
    in, since the data set itself is called `train`."""
    inside: dict[Folders, dict[Folders, int]] = {}
    for path, depth in depths.items():
        if len(path) > depth + 1:
            deeper = _next_split(path[:-1], depth + 1)  # the last folder can only be a class
            inside.setdefault(path[: depth + 1], {})[path] = deeper or 0
    return {path: deeper for found in inside.values() if all(found.values()) for path, deeper in found.items()}


def _next_split(path: Folders, start: int) -> int | None:
    return next((depth for depth in range(start, len(path)) if is_split_name(path[depth])), None)


def _cap(folders: Folders, roots: Iterable[Folders]) -> int | None:
    """The size in px that `x-sz/<cap>` right above the split says."""
    for *_, sized, cap in (path for root in roots if len(path := (*root, *folders)) > 1):
        if cap.isascii() and cap.isdecimal() and (sized == "sz" or sized.endswith("-sz")):
            return int(cap)
    return None


# ---------------------------------------------------------------------------------------------- the classes of a split
def _place(
    layout: SourceLayout,
    place: Place,
    front: int,
    found: Sequence[Folders],
    pictures: Pictures,
    annotated: Collection[Folders],
) -> None:
    """Place the folders of one split at one cap; as many of their parts as `front` lead to the folder of the split."""
    labelled = [path for path in found if len(path) > front or is_numbered(pictures[path])] or found
    (folder, *others) = dict.fromkeys(path[:front] for path in labelled)
    if others:
        what = f"{'/'.join(folder)} and {'/'.join(others[0])} both exist, and hold the same split"
        remedy = "move one of them out of the way, or give only one of them to --data.source"
        layout.faults[place.split] = SourceError(what, remedy=remedy)
        return
    by_class = [path for path in labelled if len(path) > front]
    kept = set(by_class or [folder])
    layout.left_out |= {path: OUT_OF_PLACE for path in found if path not in kept}
    labels = {path[front] for path in by_class}
    if not by_class or (folder in annotated and labels == {IMAGES}):
        layout.places |= dict.fromkeys(by_class or [folder], place)
        if not by_class and not is_numbered(pictures[folder]):
            layout.unlabelled[place.split] = _without_class(folder, pictures[folder])
        return
    if fault := _not_classes(folder, by_class, labels):
        layout.faults.setdefault(place.split, fault)
    as_tiny = all(path[front + 1 :] == (IMAGES,) for path in by_class)
    for path in by_class:
        layout.places[path] = place._replace(label=path[front], below=() if as_tiny else path[front + 1 :])


def _not_classes(folder: Folders, by_class: Sequence[Folders], labels: Collection[str]) -> UserError | None:
    """Why what is in a split's folder are no classes."""
    where, (label, *others) = "/".join(folder), sorted(labels)
    inner = sorted({path[len(folder) + 1] for path in by_class if len(path) > len(folder) + 1})
    if not others and len(inner) > 1 and (*folder, label) not in by_class:
        what = f"holds one folder, {label}, with folders in it ({', '.join(inner[:3])}, ...): which are the classes?"
        return SourceError(what, where=where, remedy=f"move those that are classes into {where}/")
    if all(map(_NOT_CLASSES.fullmatch, labels)):
        held = " and ".join(sorted(labels))
        what = f"holds {held} in place of classes, as data for detection or segmentation do (YOLO, Roboflow)"
        return SourceError(what, where=where, remedy=_SORTED.format(SPLIT_NAMES[folder[-1].lower()]))
    return None


def _without_class(folder: Folders, names: Sequence[bytes]) -> UserError:
    where = "/".join((*folder, names[0].decode("utf-8", "surrogateescape"))) if names else "/".join(folder)
    if len(folder) > 1 and _NOT_CLASSES.fullmatch(folder[-2]):
        what = "in no class folder: data for detection (YOLO, Roboflow) have labels for boxes, not for images"
    else:
        what = "in no class folder, so its label is not known"
    return SourceError(what, where=where, remedy=_SORTED.format(SPLIT_NAMES[folder[-1].lower()]))


def is_numbered(names: Sequence[bytes]) -> bool:
    """Whether some are named as ILSVRC's validation images."""
    return any(map(VAL_IMAGE.fullmatch, names))
