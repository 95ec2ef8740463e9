"""Every structural fault of a beton is found from its tables."""

import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.betons import overwrite

from data_tools.beton import samples
from data_tools.beton.checks import structure_faults
from data_tools.beton.format import ALLOC, MIN_PAGE_BYTES, SAMPLE, SAMPLES_START, pack_head, read_layout
from data_tools.native import codec

PAGE = MIN_PAGE_BYTES


def small_beton(path: Path, sizes: tuple[int, ...] = (10, 20, 30)) -> Path:
    """Samples of these sizes in one page; one of 30 bytes is stored as 10 pixels, the others as JPEGs."""
    samples, alloc = np.zeros(len(sizes), SAMPLE), np.zeros(len(sizes), ALLOC)
    for at, size in enumerate(sizes):
        pointer = PAGE + sum(sizes[:at])
        samples[at] = ((1 if size == 30 else 0, 5, 2, pointer), at)
        alloc[at] = (at, pointer, size)
    content = pack_head(len(sizes), PAGE, 2 * PAGE) + samples.tobytes()
    path.write_bytes(content + bytes(2 * PAGE - len(content)) + alloc.tobytes())
    return path


def sample_at(number: int, offset: int) -> int:
    return SAMPLES_START + 24 * number + offset


def alloc_at(number: int, offset: int) -> int:
    return 2 * PAGE + 24 * number + offset


def test_sound_file_has_no_faults(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton")
    assert structure_faults(path) == []
    layout = read_layout(path)
    assert layout.sizes().tolist() == [10, 20, 30]
    assert layout.page_bytes == PAGE
    assert structure_faults(path, SimpleNamespace(images=3, classes=("a", "b", "c"))) == []


def test_disagreement_with_the_manifest_is_found(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton")
    assert structure_faults(path, SimpleNamespace(images=4, classes=("a", "b"))) == [
        f"{path}: the manifest says 4 images, the file has 3",
        f"{path}: sample 2 has a label beyond the manifest's 2 classes",
    ]


@pytest.mark.parametrize(
    ("at", "data", "fault"),
    [
        (0, b"\x03", "not a beton of version 2"),
        (2, b"\x03", "its fields are image (RGBImageField), label (IntField), "),
        (2, b"\0", "its fields are none, not"),
        (4, struct.pack("<I", 3 << 20), "not a power of two"),
        (4, struct.pack("<I", 1 << 12), "not a power of two"),
        (8, struct.pack("<Q", 4), "do not hold 4 samples"),
        (16, struct.pack("<Q", 1 << 63), "do not hold"),
        (24, b"\x07", "its fields are"),
        (25, b"label\0", "its fields are"),
        (25, b"\xff", "its fields are"),
        (sample_at(1, 0), b"\x02", "sample 1 has an unknown mode"),
        (sample_at(1, 1), b"\0\0", "sample 1 has a side of 0"),
        (sample_at(2, 1), b"\x06", "sample 2 is raw but not"),
        (sample_at(0, 5), b"\x01", "sample 0 points to other bytes"),
        (sample_at(1, 23), b"\xff", "sample 1 has a negative label"),
        (alloc_at(0, 0), b"\x01", "sample 0 does not appear exactly once"),
        (alloc_at(0, 0), b"\x03", "names a sample that the file does not have"),
        (alloc_at(0, 8), struct.pack("<Q", 30), "sample 0 has its bytes outside"),
        (alloc_at(0, 8), struct.pack("<Q", 2**64 - 5), "sample 0 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", 2**64 - 1), "sample 2 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", 0), "sample 2 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", PAGE), "sample 2 has its bytes outside"),
        (alloc_at(0, 16), b"\x0b", "sample 1 overlaps the sample before it"),
    ],
)
def test_structural_faults_are_found(tmp_path: Path, at: int, data: bytes, fault: str) -> None:
    path = small_beton(tmp_path / "a.beton")
    overwrite(path, at, data)
    found = structure_faults(path)
    assert any(fault in line for line in found), found
    assert all(line.startswith(str(path)) for line in found)


def test_sample_across_pages_is_found(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 3 * PAGE)
    content[2 * PAGE : 2 * PAGE] = bytes(PAGE)
    pointer = struct.pack("<Q", 2 * PAGE - 5)
    content[sample_at(2, 5) : sample_at(2, 13)] = pointer
    content[3 * PAGE + 48 + 8 : 3 * PAGE + 48 + 16] = pointer
    path.write_bytes(content)
    assert structure_faults(path) == [f"{path}: sample 2 lies across a page boundary"]


def test_only_ten_samples_with_the_same_fault_are_listed(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton", sizes=(2,) * 25)
    faults = structure_faults(path, SimpleNamespace(images=25, classes=()))
    assert len(faults) == 11
    assert faults[-1] == f"{path}: ... and 15 more samples: has a label beyond the manifest's 0 classes"


def test_sample_that_one_read_does_not_reach_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads at most 2 GiB at once, and there may be more before a sample: the rest of a page, as here."""
    read, path = os.pread, small_beton(tmp_path / "a.beton", (30, 30))
    overwrite(path, PAGE, b"1" * 30 + b"2" * 30)
    monkeypatch.setattr(samples, "CHUNK_BYTES", PAGE // 4)
    monkeypatch.setattr(os, "pread", lambda file, size, at: read(file, min(size, PAGE // 2), at))
    (chunk,) = samples.check_samples(read_layout(path), 1)
    assert chunk.checksums.tolist() == [codec.checksum(b"1" * 30), codec.checksum(b"2" * 30)]
    overwrite(path, 2 * PAGE - 1, b"1")
    (chunk,) = samples.check_samples(read_layout(path), 1)
    assert chunk.faults == [f"{path}: the bytes after sample 1 are not zero"]


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    assert len(structure_faults(tmp_path / "none.beton")) == 1
