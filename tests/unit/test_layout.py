"""The file format: literal bytes, FFCV's page rules, and what a reader must not believe."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.beton.format import (
    ALLOC,
    HEADER,
    IMAGE,
    MIN_PAGE_BYTES,
    SAMPLE,
    SAMPLES_START,
    _listed,
    assign_offsets,
    check,
    data_start,
    pack_head,
    read_layout,
)

PAGE = MIN_PAGE_BYTES


def test_literal_bytes() -> None:
    head = pack_head(3, 1 << 23, 0x1234567)
    assert head[:24] == struct.pack("<HHIQQ", 2, 2, 1 << 23, 3, 0x1234567)
    image, label = head[24 : 24 + 1041], head[24 + 1041 :]
    assert image == b"\x02image" + bytes(1041 - 6)
    assert label == b"\x01label" + bytes(1041 - 6)
    sample = np.zeros(1, SAMPLE)
    sample["f0"] = (1, 500, 375, 0x0102030405060708)
    sample["f1"] = 999
    assert sample.tobytes() == struct.pack("<BHHQ3xq", 1, 500, 375, 0x0102030405060708, 999)
    assert (HEADER.itemsize, IMAGE.itemsize, SAMPLE.itemsize, ALLOC.itemsize) == (24, 13, 24, 24)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=60), st.integers(0, 300))
def test_samples_are_placed_as_ffcv_allocates(sizes: list[int], start: int) -> None:
    """Against FFCV's rule by hand: a sample that the rest of the page does not hold opens the next page."""
    page = 100
    pointers, end = assign_offsets(sizes, start, page)
    number, used = divmod(start, page)
    for pointer, size in zip(pointers, sizes, strict=True):
        if size > page - used:
            number, used = number + 1, 0
        if size:
            assert pointer == number * page + used
            assert pointer // page == (pointer + size - 1) // page
        used += size
    assert end == number * page + used
    # laid down in two goes it is the same
    half = len(sizes) // 2
    first, middle = assign_offsets(sizes[:half], start, page)
    second, last = assign_offsets(sizes[half:], middle, page)
    assert (first + second, last) == (pointers, end)


def test_a_sample_larger_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a page"):
        assign_offsets([101], 0, 100)


def test_the_first_page_is_a_multiple_of_its_size() -> None:
    assert data_start(0, PAGE) == PAGE
    full = (PAGE - SAMPLES_START) // 24
    assert data_start(full, PAGE) == PAGE
    assert data_start(full + 1, PAGE) == 2 * PAGE


def small_beton(path: Path) -> Path:
    """Three samples of 10, 20 and 30 bytes, the last as 10 pixels, made by hand."""
    samples, alloc = np.zeros(3, SAMPLE), np.zeros(3, ALLOC)
    for at, size in enumerate((10, 20, 30)):
        pointer = PAGE + sum((10, 20, 30)[:at])
        samples[at] = ((1 if at == 2 else 0, 5, 2, pointer), at)
        alloc[at] = (at, pointer, size)
    content = pack_head(3, PAGE, 2 * PAGE) + samples.tobytes()
    path.write_bytes(content + bytes(2 * PAGE - len(content)) + alloc.tobytes())
    return path


def change(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def sample_at(number: int, offset: int) -> int:
    return SAMPLES_START + 24 * number + offset


def alloc_at(number: int, offset: int) -> int:
    return 2 * PAGE + 24 * number + offset


def test_a_sound_file(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton")
    assert check(path) == []
    found = read_layout(path)
    assert found.sizes().tolist() == [10, 20, 30]
    assert found.page_bytes == PAGE
    about = SimpleNamespace(images=3, classes=("a", "b", "c"), bytes=path.stat().st_size)
    assert check(path, about) == []
    about.classes = ("a", "b")
    assert check(path, about) == [f"{path}: sample 2 has a label beyond the manifest's 2 classes"]


@pytest.mark.parametrize(
    ("at", "data", "fault"),
    [
        (0, b"\x03", "not a beton of version 2"),
        (2, b"\x03", "not a beton of version 2"),
        (4, struct.pack("<I", 3 << 20), "not a power of two"),
        (4, struct.pack("<I", 1 << 12), "not a power of two"),
        (8, struct.pack("<Q", 4), "do not hold 4 samples"),
        (8, struct.pack("<Q", 1 << 60), "do not hold"),
        (16, struct.pack("<Q", 1 << 63), "do not hold"),
        (16, struct.pack("<Q", 100), "do not hold"),
        (24, b"\x07", "its fields are"),
        (25, b"picture", "its fields are"),
        (sample_at(1, 0), b"\x02", "sample 1 has an unknown mode"),
        (sample_at(1, 1), b"\0\0", "sample 1 has a side of 0"),
        (sample_at(2, 1), b"\x06", "sample 2 is raw but not"),
        (sample_at(0, 5), b"\x01", "sample 0 points to other bytes"),
        (sample_at(1, 23), b"\xff", "sample 1 has a negative label"),
        (alloc_at(0, 0), b"\x01", "sample 0 is not exactly once"),
        (alloc_at(0, 0), b"\x03", "names a sample that the file does not have"),
        (alloc_at(0, 8), struct.pack("<Q", 30), "sample 0 has its bytes outside"),
        (alloc_at(0, 8), struct.pack("<Q", 2**64 - 5), "sample 0 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", 2**64 - 1), "sample 2 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", 0), "sample 2 has its bytes outside"),
        (alloc_at(2, 16), struct.pack("<Q", PAGE), "sample 2 has its bytes outside"),
        (alloc_at(0, 16), b"\x0b", "sample 1 overlaps the sample before it"),
    ],
)
def test_faults_are_found(tmp_path: Path, at: int, data: bytes, fault: str) -> None:
    path = change(small_beton(tmp_path / "a.beton"), at, data)
    found = check(path)
    assert any(fault in line for line in found), found
    assert all(line.startswith(str(path)) for line in found)


def test_a_sample_across_pages_is_found(tmp_path: Path) -> None:
    path = small_beton(tmp_path / "a.beton")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 3 * PAGE)
    content[2 * PAGE : 2 * PAGE] = bytes(PAGE)
    pointer = struct.pack("<Q", 2 * PAGE - 5)
    content[sample_at(2, 5) : sample_at(2, 13)] = pointer
    content[3 * PAGE + 48 + 8 : 3 * PAGE + 48 + 16] = pointer
    path.write_bytes(content)
    assert check(path) == [f"{path}: sample 2 lies across a page boundary"]


def test_many_faults_are_summed_up(tmp_path: Path) -> None:
    lines = _listed("is odd", np.arange(25))
    assert len(lines) == 11
    assert lines[-1] == "... and 15 more samples: is odd"


def test_missing_file(tmp_path: Path) -> None:
    assert len(check(tmp_path / "none.beton")) == 1


def test_layout_is_frozen(tmp_path: Path) -> None:
    found = read_layout(small_beton(tmp_path / "a.beton"))
    assert replace(found, file_bytes=1).file_bytes == 1
    with pytest.raises(AttributeError):
        found.file_bytes = 2  # type: ignore[misc]
