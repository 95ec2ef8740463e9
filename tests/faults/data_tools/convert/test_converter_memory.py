"""Memory at ImageNet's scale: a tar of a million tiny pictures, converted."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.images import jpeg, photo

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


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@pytest.mark.slow
def test_memory_is_bounded_at_a_million_images(tmp_path: Path) -> None:
    source, out = tmp_path / "large.tar", tmp_path / "out"
    write_large_tar(source, IMAGES)
    command = [sys.executable, str(ROOT / "write_datasets.py"), f"--data.source={source}", f"--data.out={out}"]
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--data.splits=train", "--data.expect=any", "--write.workers=2"], stderr=errors
        )
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it ended meanwhile
            peak = max(peak, peak_megabytes(process.pid))
        time.sleep(0.1)
    print(f"peak memory at {IMAGES:,} images: {peak:.0f} MB")
    assert process.returncode == 0, (tmp_path / "errors").read_text()[-2000:]
    assert 0 < peak < 500
    path = out / "train_160.beton"
    assert structure_faults(path, read_manifest(path)) == []
    assert np.bincount(read_layout(path).samples["f1"]).tolist() == [IMAGES // CLASSES] * CLASSES
