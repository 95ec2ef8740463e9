"""Reads the bytes of an image from any kind of source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


class Reader:
    """Reads images by file, offset and length, keeping archives open."""

    def __init__(self, files: Sequence[Sequence[str]]) -> None:
        self.files = files
        self.open: dict[int, Any] = {}

    def read(self, file: int, offset: int, length: int, key: str) -> bytes:
        """Raises OSError, also if a source is shorter than expected."""
        kind, path = self.files[file]
        if kind in ("folder", "flat"):
            path = f"{path}/{key if kind == 'folder' else key.rpartition('/')[2]}"
            handle = os.open(path, os.O_RDONLY)
            try:
                data = _read_at(handle, 0, length)
            finally:
                os.close(handle)
        elif kind == "parquet":
            from data_tools.sources import parquet

            if file not in self.open:
                self.open[file] = parquet.Rows(path)
            return bytes(self.open[file].image(offset))
        else:
            if file not in self.open:
                self.open[file] = os.open(path, os.O_RDONLY)
            data = _read_at(self.open[file], offset, length)
        if len(data) != length:
            raise OSError(f"{path}: {key}: {len(data)} of {length} bytes; has the source changed?")
        return data


def _read_at(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
        data += more
    return data
