"""The official ILSVRC 2012 archives, read in place.

`ILSVRC2012_img_train.tar` is a tar of 1000 tars, one a class; they are not compressed, so an image is a range of
bytes of the outer file. `ILSVRC2012_img_val.tar` is flat and has no labels: `ILSVRC2012_devkit_t12.tar.gz` has a
class number for each image in its ground-truth file, and a wnid for each number in meta.mat.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.sources.matfile import read_synsets
from data_tools.sources.tar import BLOCK, SourceError, looks_like_tar, members

if TYPE_CHECKING:
    from data_tools.sources.index import IndexBuilder

Devkit = list[str]  # the wnid of validation image 1, 2, ...
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "meta.mat"
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_MAX_DEVKIT_BYTES = 64 << 20


def recognise(path: Path) -> str:
    """`ilsvrc train`, `ilsvrc val` or an empty string, by the first file in a tar."""
    first = next(iter(members(path)), None)
    if first is None:
        return ""
    if _VAL_IMAGE.fullmatch(first.name.removeprefix("./")):
        return "ilsvrc val"
    with path.open("rb") as file:
        file.seek(first.offset)
        start = file.read(min(first.length, BLOCK))
    return "ilsvrc train" if len(start) == BLOCK and looks_like_tar(start) else ""


def read_train(builder: IndexBuilder, path: Path) -> None:
    """Add the images of the inner tars; each is a class, named by its file name (n01440764.tar)."""
    file = builder.file("archive", path)
    for inner in members(path):
        label = inner.name.rsplit("/", 1)[-1]
        if not label.endswith(".tar"):
            builder.ignore(f"{path}: {inner.name}")
            continue
        for member in members(path, inner.offset, inner.offset + inner.length, label):
            name = member.name.rsplit("/", 1)[-1]
            wnid = label.removesuffix(".tar")
            builder.add("train", None, wnid, name, file, member.offset, member.length, member.modified)


def read_val(builder: IndexBuilder, path: Path, devkit: Devkit | None) -> None:
    """Add the images of the flat tar, with the devkit's labels."""
    if devkit is None:
        raise SourceError(
            "its images carry no labels", where=path, remedy="add ILSVRC2012_devkit_t12.tar.gz to --data.source"
        )
    file = builder.file("archive", path)
    for member in members(path):
        name = member.name.rsplit("/", 1)[-1]
        match = _VAL_IMAGE.fullmatch(name)
        if match is None:
            builder.ignore(f"{path}: {member.name}")
            continue
        if not 1 <= int(match[1]) <= len(devkit):
            raise SourceError(f"{member.name}: the devkit has labels for images 1 to {len(devkit)}", where=path)
        wnid = devkit[int(match[1]) - 1]
        builder.add("val", None, wnid, name, file, member.offset, member.length, member.modified)


# ---------------------------------------------------------------------------------------------- the devkit
def is_devkit(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:gz") as tar:
            return any(info.name.endswith((TRUTH, SYNSETS)) for _, info in zip(range(100), tar, strict=False))
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False


def read_devkit(path: Path) -> Devkit:
    """The wnid of every validation image, in the order of their numbers. Raises SourceError."""
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for info in tar:
                name = info.name.rsplit("/", 1)[-1]
                if name in (TRUTH, SYNSETS) and info.isfile() and info.size < _MAX_DEVKIT_BYTES:
                    texts[name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SourceError(f"damaged ({error})", where=path, remedy="download it again") from None
    for name in (TRUTH, SYNSETS):
        if name not in texts:
            raise SourceError(f"no {name} in it", where=path, remedy="the devkit for tasks 1 and 2 has one")
    try:
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in read_synsets(texts[SYNSETS])}
        return [wnids[int(line)] for line in texts[TRUTH].split()]
    except (KeyError, ValueError, TypeError, struct.error, zlib.error, IndexError, StopIteration) as error:
        raise SourceError(f"{SYNSETS} and {TRUTH} do not go together ({error!r})", where=path) from None
