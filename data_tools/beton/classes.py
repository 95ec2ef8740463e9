"""Classes and their numbers: sorted by name, the same for every split of a data set."""

import hashlib
import re
from collections.abc import Sequence

from data_tools.common.imagenet import IMAGENET_CLASSES, IMAGENET_IMAGES
from data_tools.common.names import name_bytes

_WNID = re.compile(r"n\d{8}")


def are_wnids(classes: Sequence[str]) -> bool:
    """Whether every class is a WordNet id as ImageNet names them (n01440764)."""
    return bool(classes) and all(_WNID.fullmatch(name) for name in classes)


def in_imagenets_order(classes: Sequence[str]) -> bool:
    """Whether these are ImageNet's 1,000 classes in the order of published weights: wnids sorted, or their numbers."""
    if len(classes) != IMAGENET_CLASSES:
        return False
    numbers = [int(name) if name.isdecimal() else -1 for name in classes]
    return numbers == [*range(IMAGENET_CLASSES)] or (are_wnids(classes) and list(classes) == sorted(classes))


def classes_digest(classes: Sequence[str]) -> str:
    """SHA-256 over the bytes of the names, each ended by a newline."""
    return hashlib.sha256(b"".join(name_bytes(name) + b"\n" for name in classes)).hexdigest()


def may_be_imagenets(classes: Sequence[str]) -> bool:
    return len(classes) == IMAGENET_CLASSES and are_wnids(classes)


def shortfalls(
    classes: Sequence[str], images: dict[str, int], splits: Sequence[str] = tuple(IMAGENET_IMAGES)
) -> list[str]:
    """How these splits of a source differ from ImageNet-1k; empty if they do not."""
    what = f"{len(classes)} classes where ImageNet has {IMAGENET_CLASSES} wnids"
    faults = [] if may_be_imagenets(classes) else [what]
    for split, count in IMAGENET_IMAGES.items():
        if split in splits and images.get(split, 0) != count:
            faults.append(f"{split}: {images.get(split, 0):,} images where ImageNet has {count:,}")
    return faults
