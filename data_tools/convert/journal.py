"""The journal of a conversion: what is written of every image, so that it can continue exactly where it stopped.

A line of JSON says what is being converted (`identity`). Then comes an entry of a fixed size for every image, in the
order in which they are written: a RECORD for each beton, and a CRC-32. An image that is bad has records of zeros. An
entry is appended after the image's bytes; after a power cut, the last of either may be missing, so whoever continues
compares the last of them.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.common.errors import UserError
from data_tools.native.library import RECORD

# Digests in the identity, and what they are of.
_OF_SOURCE = {
    "source_digest": "the names, labels or lengths of the source's images",
    "source_state": "the contents or times of modification of the source's images",
    "places": "the places of the images in the source",
}
_REMOVE = "remove *.journal and *.partial there"


class JournalError(UserError, ValueError):
    """A journal of another conversion; the message says what differs and what to do."""


def peek(path: Path) -> dict[str, Any] | None:
    """The identity of the conversion that was interrupted here, if there is one. Raises JournalError."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        identity: dict[str, Any] = json.loads(line)
        if isinstance(identity["betons"], list):
            return identity
    raise JournalError("not a journal of a conversion", where=path, remedy=_REMOVE)


class Journal:
    """The `records` (images, betons) of the first `done` images. Opening an existing journal continues it."""

    def __init__(self, path: Path, identity: dict[str, Any], images: int, betons: int) -> None:
        self.path, self.done = path, 0
        self.records = np.zeros((images, betons), RECORD)
        self._entry = np.dtype([("records", RECORD, betons), ("crc", "<u4")])
        found = peek(path)
        if found is not None and found != identity:
            raise _another(path, found, identity)
        line = json.dumps(identity).encode() + b"\n"
        self._start = len(line)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if found is None:
                os.ftruncate(self._handle, 0)
                self._write(line)
                os.fsync(self._handle)
            else:
                self._load()
        except BaseException:
            os.close(self._handle)
            raise

    def _load(self) -> None:
        """Take all entries up to the first that is damaged."""
        entries = np.fromfile(self.path, self._entry, offset=self._start)[: len(self.records)]
        size, raw = self._entry.itemsize, entries.tobytes()
        for at, crc in enumerate(entries["crc"].tolist()):
            if zlib.crc32(raw[at * size : (at + 1) * size - 4]) != crc:
                break
            self.done = at + 1
        self.records[: self.done] = entries["records"][: self.done]

    def add(self, records: NDArray[Any]) -> None:
        """Record images whose bytes have been written."""
        entries = np.zeros(len(records), self._entry)
        entries["records"] = records
        entries["crc"] = [zlib.crc32(each.tobytes()) for each in records]
        self._write(entries.tobytes())
        self.records[self.done : self.done + len(records)] = records
        self.done += len(records)

    def _write(self, content: bytes) -> None:
        if os.write(self._handle, content) != len(content):
            raise OSError(28, f"no room left for {self.path}")

    def sync(self) -> None:
        os.fsync(self._handle)

    def truncate(self, done: int) -> None:
        """Forget the images from `done` on, whose bytes were lost in a crash."""
        self.done = done
        self.records[done:] = 0
        end = self._start + done * self._entry.itemsize
        os.ftruncate(self._handle, end)
        os.lseek(self._handle, end, os.SEEK_SET)

    def close(self) -> None:
        os.close(self._handle)


def _another(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> JournalError:
    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    changes = "; ".join(_change(key, found.get(key), wanted.get(key)) for key in keys)
    return JournalError(
        f"another conversion was interrupted here ({changes})",
        where=path,
        remedy=f"give its options and its source again, or {_REMOVE}",
    )


def _change(key: str, was: Any, now: Any) -> str:
    return f"{_OF_SOURCE[key]} have changed" if key in _OF_SOURCE else f"{key} was {was}, is {now}"
