"""The synsets of a devkit, from MATLAB files of both kinds that are written."""

import struct

import pytest
from helpers.images import META_MAT, WNIDS

from data_tools.sources.matfile import read_synsets


def test_read_synsets_of_scipy_and_matlab_files() -> None:
    assert [(int(each["ILSVRC2012_ID"]), each["WNID"]) for each in read_synsets(META_MAT)] == list(enumerate(WNIDS, 1))
    with pytest.raises(ValueError, match="level 5"):
        read_synsets(b"MATLAB 7.3 MAT-file" + bytes(200))

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    name = struct.pack("<HH4s", 1, 1, b"x")  # type and size in one word, as MATLAB writes what fits 4 bytes
    other = element(
        14, element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", 1, 1)) + name + element(9, bytes(8))
    )
    content = META_MAT[:128] + other + META_MAT[128:]
    assert len(read_synsets(content)) == 5
