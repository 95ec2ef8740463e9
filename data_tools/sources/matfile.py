"""The parts of MATLAB's level 5 MAT-file format that meta.mat uses: an array of structs of text and numbers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

_COMPRESSED, _MATRIX = 15, 14
_STRUCT, _CHAR = 2, 4
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_SKIPPED_CLASSES = {1}  # cells: no field that is needed here


def read_synsets(content: bytes) -> list[dict[str, Any]]:
    """The `synsets` array of a meta.mat, each synset as a dictionary of numbers and texts."""
    if len(content) < 128 or content[126:128] != b"IM":
        raise ValueError("not a little-endian MAT-file of level 5")
    for kind, data in _elements(content[128:]):
        if kind == _COMPRESSED:
            kind, data = next(_elements(zlib.decompress(data)))
        if kind == _MATRIX:
            name, value = _matrix(data)
            if name == "synsets":
                return list(value)
    raise ValueError("no variable `synsets`")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # a small element: size and type share a word, up to 4 bytes follow
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            if at + 8 + size > len(data):
                raise ValueError("an element is cut short")
            yield kind, data[at + 8 : at + 8 + size]
            at += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _matrix(data: bytes) -> tuple[str, Any]:
    """Name and value: a list of dictionaries, text, a number, or None for what is not needed."""
    parts = _elements(data)
    if not data:
        return "", None
    kind = next(parts)[1][0]
    count = 1
    for size in struct.unpack(f"<{len(sizes := next(parts)[1]) // 4}i", sizes):
        count *= size
    name = next(parts)[1].decode("latin1")
    if kind == _STRUCT:
        width = struct.unpack("<i", next(parts)[1])[0]
        raw = next(parts)[1]
        keys = [raw[at : at + width].split(b"\0")[0].decode("latin1") for at in range(0, len(raw), width)]
        return name, [{key: _matrix(next(parts)[1])[1] for key in keys} for _ in range(count)]
    if kind in _SKIPPED_CLASSES or not count:
        return name, None
    stored, raw = next(parts)
    if kind == _CHAR:
        return name, raw.decode(_TEXTS[stored])
    return name, struct.unpack_from(f"<{_NUMBERS[stored]}", raw)[0]
