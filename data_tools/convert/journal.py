"""The journal of a conversion: which samples are written, so that it can continue exactly where it stopped.

A file of frames. The first says what is being converted (`identity`); then come frames of records, appended after
their bytes were written to the `.partial` files, and barriers, appended after an fsync of those. A frame carries
its length and CRC, so that one cut short is recognised and dropped. What precedes the last barrier is on the disk;
after a power cut, bytes of later records may be missing, so those samples are checked on resuming.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass, field
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
_FRAME = struct.Struct("<4sIQIII")  # kind, images, first position, bytes of records, bytes of JSON, CRC-32
_IDENTITY, _RECORDS, _BARRIER = b"IDEN", b"RECS", b"BARR"


class JournalError(UserError, ValueError):
    """A journal of another conversion; the message says what differs and what to do."""


@dataclass(slots=True)
class Progress:
    """Records of the first `done` positions; those before `safe` are on the disk."""

    records: NDArray[Any]
    done: int = 0
    safe: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def peek(path: Path) -> dict[str, Any] | None:
    """The identity of the conversion that was interrupted here, if there is one."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        kind, _, first, _, size, crc = _FRAME.unpack(head)
        text = file.read(size)
    if kind != _IDENTITY or zlib.crc32(text, first) != crc:
        return None
    identity: dict[str, Any] = json.loads(text)
    return identity


class Journal:
    """Appends frames; opening an existing journal replays it."""

    def __init__(self, path: Path, identity: dict[str, Any], images: int, outputs: int) -> None:
        self.path = path
        self.progress = Progress(np.zeros((images, outputs), RECORD))
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            end = self._replay(identity)
            os.ftruncate(self._handle, end)
            os.lseek(self._handle, end, os.SEEK_SET)
            if end == 0:
                self._append(_IDENTITY, 0, 0, b"", identity)
                os.fsync(self._handle)
        except BaseException:
            os.close(self._handle)
            raise

    def add(self, first: int, records: NDArray[Any], bad: list[tuple[int, str]]) -> None:
        """Record images whose bytes have been written."""
        self._append(_RECORDS, len(records), first, records.tobytes(), bad)
        self._apply(first, records, bad)

    def barrier(self) -> None:
        """Record that everything so far is on the disk; the caller has synced it."""
        self._append(_BARRIER, 0, self.progress.done, b"", None)
        os.fsync(self._handle)
        self.progress.safe = self.progress.done

    def truncate(self, done: int) -> None:
        """Forget positions from `done` on, whose bytes were lost in a crash."""
        self.progress.bad = [(at, reason) for at, reason in self.progress.bad if at < done]
        self.progress.done = done

    def close(self) -> None:
        os.close(self._handle)

    def _append(self, kind: bytes, images: int, first: int, raw: bytes, extra: Any) -> None:
        text = json.dumps(extra).encode() if extra else b""
        body = raw + text
        head = _FRAME.pack(kind, images, first, len(raw), len(text), zlib.crc32(body, first))
        if os.write(self._handle, head + body) != len(head) + len(body):
            raise OSError(28, f"no room left for {self.path}")

    def _apply(self, first: int, records: NDArray[Any], bad: list[tuple[int, str]]) -> None:
        # A frame may rewrite positions that were truncated.
        self.truncate(min(first, self.progress.done))
        self.progress.records[first : first + len(records)] = records
        self.progress.bad += [(int(at), str(reason)) for at, reason in bad]
        self.progress.done = first + len(records)

    def _replay(self, identity: dict[str, Any]) -> int:
        """Apply every whole frame; returns where the first damaged one begins."""
        at, shape = 0, self.progress.records.shape
        with self.path.open("rb") as file:
            while len(head := file.read(_FRAME.size)) == _FRAME.size:
                kind, images, first, raw_size, text_size, crc = _FRAME.unpack(head)
                if raw_size != images * shape[1] * RECORD.itemsize or first + images > shape[0]:
                    break
                raw, text = file.read(raw_size), file.read(text_size)
                if len(text) != text_size or zlib.crc32(text, zlib.crc32(raw, first)) != crc:
                    break
                extra: Any = json.loads(text) if text else []
                if kind == _IDENTITY:
                    self._check(extra, identity)
                elif kind == _BARRIER:
                    self.progress.safe = min(first, self.progress.done)
                elif first > self.progress.done:
                    break
                else:
                    self._apply(first, np.frombuffer(raw, RECORD).reshape(images, shape[1]), extra)
                    self.progress.safe = min(self.progress.safe, first)
                at += _FRAME.size + raw_size + text_size
        return at

    def _check(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        found = {"source_state": wanted.get("source_state")} | found  # journals of earlier versions have none
        if found != wanted:
            keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
            changes = "; ".join(_change(key, found.get(key), wanted.get(key)) for key in keys)
            raise JournalError(
                f"another conversion was interrupted here ({changes})",
                where=self.path,
                remedy="give its options and its source again, or remove *.journal and *.partial there",
            )


def _change(key: str, was: Any, now: Any) -> str:
    return f"{_OF_SOURCE[key]} have changed" if key in _OF_SOURCE else f"{key} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
