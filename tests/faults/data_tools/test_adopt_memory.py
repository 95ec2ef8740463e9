"""Memory at ImageNet's scale: half a million tiny pictures in a file that stock FFCV wrote, adopted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.images import photo
from helpers.stock import write_stock

from data_tools.beton.manifest import read_manifest

IMAGES = 500_000
# Adopts its arguments and prints the most memory that it has held. (What getrusage says may be the parent's.)
MEASURED = """
import pathlib, re, sys
from data_tools import adopt
status = adopt.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


class Tiny:
    """Pictures of 16 x 12 px in 1,000 classes."""

    def __init__(self, images: int) -> None:
        self.images, self.pictures = images, [photo(at, 16, 12) for at in range(100)]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        return self.pictures[at % 100], at % 1000


def peak_megabytes(path: Path, images: int) -> int:
    write_stock(path, Tiny(images), mode="jpg")
    command = [sys.executable, "-c", MEASURED, str(path), "--workers=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_manifest(path).images == images
    return int(done.stdout.split()[-1]) // 1024


@pytest.mark.slow
def test_memory_is_bounded_at_half_a_million_images(tmp_path: Path) -> None:
    """The tables of a sample take 56 bytes in the file; here 400 suffice for each, and what is read does not add up."""
    few, many = (peak_megabytes(tmp_path / str(images) / "train.ffcv", images) for images in (10_000, IMAGES))
    print(f"{IMAGES:,} images: {many} MB, 10,000 images: {few} MB")
    assert many - few < 400 * IMAGES / 1e6
