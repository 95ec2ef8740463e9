"""Locates the members of an uncompressed tar from its headers, without extracting anything.

Python's tarfile parses each header; the loop is our own, because tarfile keeps every member (1.5 GB for ImageNet)
and does not notice an archive that is cut at a member's boundary. Here an archive must end with its two zero
blocks, a member must lie within it, and one that could reach outside of the archive is refused.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.errors import UserError

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_MAX_EXTRA = 1 << 20  # bytes of a long name or a pax header


class SourceError(UserError, ValueError):
    """A source that is damaged, incomplete or not safe to read."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file: `length` bytes at `offset` of the file that holds the archive, `modified` in seconds."""

    name: str
    offset: int
    length: int
    modified: int


def looks_like_tar(start: bytes) -> bool:
    """Whether these first 512 bytes are a tar header (its checksum holds)."""
    try:
        tarfile.TarInfo.frombuf(start[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def members(path: Path, start: int = 0, end: int | None = None, label: str = "") -> Iterator[Member]:
    """The regular files of the tar at bytes `start` to `end` of a file, in archive order. Raises SourceError.

    `label` names an inner archive in errors.
    """
    where = f"{path}{': ' + label if label else ''}"
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, start, 0, os.POSIX_FADV_RANDOM)  # headers only: no read-ahead of the pictures
        yield from _walk(handle, where, start, os.fstat(handle).st_size if end is None else end)
    finally:
        os.close(handle)


def _walk(handle: int, where: str, at: int, end: int) -> Iterator[Member]:
    extra: dict[str, str] = {}
    last = "nothing"
    while True:
        block = os.pread(handle, BLOCK, at)
        if len(block) < BLOCK or at + BLOCK > end:
            raise SourceError(f"ends early, after {last}", where=where, remedy="copy or download it again")
        if block == _ZEROS:
            _check_end(handle, where, at, end, last)
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            message = f"{where}: no tar header at byte {at}, after {last} ({error}); copy or download it again"
            raise SourceError(message) from None
        size = int(extra.get("size", info.size))
        data, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        name = extra.get("path", info.name)
        if data + size > end or size < 0:
            raise SourceError(f"ends early, within {name}", where=where, remedy="copy or download it again")
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            extra |= _extra(handle, where, info.type, data, size)
            continue
        extra = {}
        last = name
        _check_name(where, name, info.type)
        if info.type in _FILES:
            yield Member(name, data, size, int(info.mtime))
        elif info.type != tarfile.DIRTYPE:
            raise SourceError(f"{name} is of an unknown kind ({info.type!r})", where=where)


def _check_end(handle: int, where: str, at: int, end: int, last: str) -> None:
    second = os.pread(handle, BLOCK, at + BLOCK)
    if second != _ZEROS or at + 2 * BLOCK > end:
        raise SourceError(
            f"ends early, after {last}: no end-of-archive mark", where=where, remedy="copy or download it again"
        )


def _extra(handle: int, where: str, kind: bytes, data: int, size: int) -> dict[str, str]:
    """What a GNU long name or a pax header says about the member that follows it."""
    if kind in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
        return {}
    if size > _MAX_EXTRA:
        raise SourceError(f"a member's name at byte {data} takes {size} bytes", where=where)
    content = os.pread(handle, size, data)
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records: dict[str, str] = {}
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise SourceError(f"a damaged pax header at byte {data}", where=where)
        keyword, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if keyword in (b"path", b"size"):
            records[keyword.decode()] = value.decode("utf-8", "surrogateescape")
        if keyword.startswith(b"GNU.sparse"):
            raise SourceError(f"a sparse file at byte {data}, which is refused", where=where)
        content = content[int(length) :]
    if not records.get("size", "0").isdigit():
        raise SourceError(f"a damaged pax header at byte {data}", where=where)
    return records


def _check_name(where: str, name: str, kind: bytes) -> None:
    if kind in _REFUSED:
        raise SourceError(f"{name} is {_REFUSED[kind]}, which is refused", where=where)
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"{name} points outside of the archive, which is refused", where=where)
    if "\0" in name or not name:
        raise SourceError("a member without a usable name", where=where)
