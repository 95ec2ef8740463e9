"""Reads the bytes of an image from any kind of source."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_tools.common.files import too_many_open_files
from data_tools.common.names import to_path

if TYPE_CHECKING:
    from data_tools.sources.parquet import Table

_OPEN_ARCHIVES = 16  # but one shard, which holds decompressed pages: they are read one after another


@dataclass(frozen=True, slots=True)
class File:
    """Where bytes are read from.

    An archive at offsets; a folder, by the name of a file in it; a parquet shard, by row.
    column: of a shard, the one that holds the images. digest: of a shard's contents.
    """

    kind: Literal["archive", "folder", "parquet"]
    path: str
    column: str = ""
    digest: str = ""


class Archive:
    """An open archive, until nobody refers to it any more."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "handle"):  # else it could not be opened
            os.close(self.handle)


class Reader:
    """Reads images by file, offset and length, and keeps the archives that it read last open. Threads may share it, but
    only one may read parquet."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = files
        self._archives: OrderedDict[int, Archive] = OrderedDict()
        self._shard: tuple[int, Table] | None = None
        self._lock = threading.Lock()

    def read(self, file: int, offset: int, length: int, key: str) -> bytes:
        """Raises OSError, also if an image has another length by now, and UserError at the limit on open files."""
        path = self.files[file].path
        try:
            if self.files[file].kind == "parquet":
                return self._table(file).image(self.files[file].column, offset)
            if self.files[file].kind == "archive":
                data = _read_at(self.archive(file).handle, offset, length)
            else:
                path = self.path(file, key)
                with Path(path).open("rb") as opened:
                    data = opened.read(length + 1)  # one that has grown would look damaged
        except OSError as error:
            if limit := too_many_open_files(error, path):
                raise limit from None
            if self.files[file].kind == "archive" and error.errno:
                raise OSError(error.errno, f"{error.strerror} ({key})", path) from error
            raise
        if len(data) != length:
            raise OSError(f"{path}: {key}: no longer {length} bytes; has the source changed?")
        return data

    def path(self, file: int, key: str) -> str:
        """The file of an image in a folder."""
        return f"{self.files[file].path}/{to_path(key.rpartition('/')[2])}"

    def archive(self, file: int) -> Archive:
        """An archive, which stays open as long as it is referred to."""
        with self._lock:
            if file not in self._archives:
                if len(self._archives) == _OPEN_ARCHIVES:
                    self._archives.popitem(last=False)
                self._archives[file] = Archive(self.files[file].path)
            self._archives.move_to_end(file)
            return self._archives[file]

    def close(self) -> None:
        self._archives.clear()
        if self._shard:
            self._shard[1].close()
            self._shard = None

    def _table(self, file: int) -> Table:
        from data_tools.sources.parquet import Table

        if self._shard and self._shard[0] != file:
            self._shard[1].close()
            self._shard = None
        if not self._shard:
            self._shard = file, Table(Path(self.files[file].path))
        return self._shard[1]


def _read_at(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
        data += more
    return data
