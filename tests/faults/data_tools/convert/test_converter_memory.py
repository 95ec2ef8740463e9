"""Memory at ImageNet's scale: a tar of a million tiny pictures, converted."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.images import jpeg, photo
from helpers.processes import peak_megabytes

from data_tools.beton.checks import structure_faults
from data_tools.beton.format import read_layout
from data_tools.beton.manifest import read_manifest

IMAGES = 1_000_000
CLASSES = 1000


def write_large_tar(path: Path, images: int) -> None:
    """Names as long as ImageNet's, all members the same picture, in an order that is not the sorted one."""
    data = jpeg(photo(0, 8, 8), quality=50)
    padded = data + bytes(-len(data) % tarfile.BLOCKSIZE)
    with path.open("wb", buffering=1 << 22) as file:
        for at in range(images):
            wnid = f"n{1440764 + at % CLASSES:08d}"
            info = tarfile.TarInfo(f"raw-data/train/{wnid}/{wnid}_{at * 7919 % images}.JPEG")
            info.size = len(data)
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.write(padded)
        file.write(bytes(2 * tarfile.BLOCKSIZE))


@pytest.mark.slow
def test_memory_is_bounded_at_a_million_images(tmp_path: Path) -> None:
    source, out = tmp_path / "large.tar", tmp_path / "out"
    write_large_tar(source, IMAGES)
    options = f"--data.source={source}", f"--data.out={out}", "--data.splits=train", "--data.expect=any"
    peak = peak_megabytes("write_datasets.py", *options, "--write.workers=2")
    print(f"peak memory at {IMAGES:,} images: {peak} MB")
    assert 0 < peak < 500
    path = out / "train_160.beton"
    assert structure_faults(path, read_manifest(path)) == []
    assert np.bincount(read_layout(path).samples["f1"]).tolist() == [IMAGES // CLASSES] * CLASSES
