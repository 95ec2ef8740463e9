"""The file format: literal bytes and FFCV's page rules."""

import struct

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
    assign_offsets,
    data_start,
    pack_head,
)


def test_bytes_of_header_fields_and_sample() -> None:
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


def test_sample_larger_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a page"):
        assign_offsets([101], 0, 100)


def test_first_page_starts_at_a_multiple_of_the_page_size() -> None:
    assert data_start(0, MIN_PAGE_BYTES) == MIN_PAGE_BYTES
    full = (MIN_PAGE_BYTES - SAMPLES_START) // 24
    assert data_start(full, MIN_PAGE_BYTES) == MIN_PAGE_BYTES
    assert data_start(full + 1, MIN_PAGE_BYTES) == 2 * MIN_PAGE_BYTES
