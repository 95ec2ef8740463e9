"""The labels of ILSVRC's validation images.

`ILSVRC2012_img_val.tar` is flat and has none: `ILSVRC2012_devkit_t12.tar.gz` has a class number for each image in its
ground-truth file, and a wnid for each number in meta.mat. Kaggle's copy has `LOC_val_solution.csv` in its place, a line
for each image with its wnid.
"""

import contextlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from data_tools.sources.listing import KAGGLE_LABELS, MAX_LABEL_BYTES, SYNSETS, TRUTH
from data_tools.sources.tar import SourceError

KAGGLE_START = b"ImageId,PredictionString"


def read_labels(path: Path) -> dict[str, bytes]:
    """The files of labels, by name, in the devkit, compressed (as a plain tar it is read like every other), or if this
    is Kaggle's. Empty if it is neither; SourceError for a devkit that has only one of its two."""
    texts: dict[str, bytes] = {}
    if path.stat().st_size > MAX_LABEL_BYTES:
        return texts
    with path.open("rb") as file:
        if file.read(len(KAGGLE_START)) == KAGGLE_START:
            return {KAGGLE_LABELS: path.read_bytes()}
    with (
        contextlib.suppress(tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError),
        tarfile.open(path) as tar,
    ):
        for info in tar:
            name = info.name.rpartition("/")[2]
            if name in (TRUTH, SYNSETS) and info.isfile() and info.size < MAX_LABEL_BYTES:
                texts[name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    if len(texts) == 1:
        remedy = "download it again; the devkit for tasks 1 and 2 has both"
        raise SourceError(f"holds only {next(iter(texts))}, or is damaged", where=path, remedy=remedy)
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
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        synsets = loadmat(io.BytesIO(files[SYNSETS]), variable_names=["synsets"], simplify_cells=True)["synsets"]
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        truth = [wnids[int(line)] for line in files[TRUTH].split()]
    except Exception as error:  # a damaged MAT-file makes SciPy raise whatever it stumbles over
        raise SourceError(f"{SYNSETS} and {TRUTH} do not match ({error!r})", where=where) from None
    return labels | {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(truth, 1)}
