"""The official ILSVRC 2012 archives, read in place.

`ILSVRC2012_img_train.tar` is a tar of 1000 tars, one a class; they are not compressed, so an image is a range of
bytes of the outer file. `ILSVRC2012_img_val.tar` is flat and has no labels: `ILSVRC2012_devkit_t12.tar.gz` has a
class number for each image in its ground-truth file, and a wnid for each number in meta.mat. Kaggle's copy has
`LOC_val_solution.csv` in its place, a line for each image with its wnid.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.common.file_kinds import is_hidden, is_image
from data_tools.sources.matfile import read_synsets
from data_tools.sources.tar import BLOCK, Member, SourceError, looks_like_tar, members

if TYPE_CHECKING:
    from data_tools.sources.index import IndexBuilder

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "meta.mat"
KAGGLE_LABELS = "LOC_val_solution.csv"
KAGGLE_START = b"ImageId,PredictionString"
LABEL_FILES = (TRUTH, SYNSETS, KAGGLE_LABELS)
VAL_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
MAX_LABEL_BYTES = 64 << 20  # the devkit takes 2.5 MB, Kaggle's file 2.4 MB


def is_train_archive(path: Path) -> bool:
    """Whether the first image or tar in a tar is a tar; other files before it do not matter."""
    with path.open("rb") as file:
        for member in members(path):
            read = start_of(file.fileno(), member)
            name = parts(member.name)[-1]
            if not is_hidden([name]) and looks_like_tar(read(BLOCK)):
                return True
            if is_image(name, read):
                return False
    return False


def read_train(builder: IndexBuilder, path: Path) -> None:
    """Add the images of the inner tars; each is a class, named by its file name (n01440764.tar)."""
    number = builder.file("archive", path)
    with path.open("rb") as file:
        for inner in members(path):
            label = inner.name.rpartition("/")[2]
            if not label.endswith(".tar") or is_hidden([label]):
                builder.ignore(f"{path}: {inner.name}")
                continue
            wnid = label.removesuffix(".tar")
            for member in members(path, inner.offset, inner.offset + inner.length, label):
                *folders, name = parts(member.name)
                if is_hidden(folders) or not is_image(name, start_of(file.fileno(), member)):
                    builder.ignore(f"{path}: {label}: {member.name}")
                else:
                    builder.add("train", None, wnid, name, number, member.offset, member.length, member.modified)


def parts(name: str) -> tuple[str, ...]:
    """The folders of a member's name and the file, without `.`."""
    return tuple(part for part in name.split("/") if part not in ("", ".")) or (name,)


def start_of(handle: int, member: Member) -> Callable[[int], bytes]:
    """Reads the first bytes of a member, as many as are asked for."""
    return lambda count: os.pread(handle, min(count, member.length), member.offset)


# ---------------------------------------------------------------------------------------------- labels of val
def is_devkit(path: Path) -> bool:
    """Whether this is the devkit, compressed; as a plain tar it is read like every other."""
    if path.stat().st_size > MAX_LABEL_BYTES:
        return False
    try:
        with tarfile.open(path) as tar:
            return any(info.name.endswith((TRUTH, SYNSETS)) for _, info in zip(range(100), tar, strict=False))
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def read_devkit(path: Path) -> dict[str, bytes]:
    """The two files of the devkit that hold labels. Raises SourceError."""
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                name = info.name.rpartition("/")[2]
                if name in (TRUTH, SYNSETS) and info.isfile() and info.size < MAX_LABEL_BYTES:
                    texts[name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"damaged ({error})", where=path, remedy="download it again") from None
    for name in (TRUTH, SYNSETS):
        if name not in texts:
            raise SourceError(f"no {name} in it", where=path, remedy="the devkit for tasks 1 and 2 has one")
    return texts


def val_labels(files: Mapping[str, bytes], where: str) -> dict[str, str]:
    """The wnid of every validation image by its name without suffix, from the devkit's files or Kaggle's.

    Raises SourceError if the devkit's two do not match.
    """
    labels: dict[str, str] = {}
    if KAGGLE_LABELS in files:  # ILSVRC2012_val_00048981,n03995372 85 1 499 272
        rows = (line.partition(",") for line in files[KAGGLE_LABELS].decode("utf-8", "replace").splitlines()[1:])
        labels = {image: boxes.split()[0] for image, _, boxes in rows if boxes.split()}
    if TRUTH not in files or SYNSETS not in files:
        return labels
    try:
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in read_synsets(files[SYNSETS])}
        truth = [wnids[int(line)] for line in files[TRUTH].split()]
    except (KeyError, ValueError, TypeError, struct.error, zlib.error, IndexError, StopIteration) as error:
        raise SourceError(f"{SYNSETS} and {TRUTH} do not match ({error!r})", where=where) from None
    return labels | {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(truth, 1)}
