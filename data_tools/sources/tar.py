"""Locates the members of an uncompressed tar from its headers, without extracting anything.

Python's tarfile parses each header; the loop is our own, because tarfile keeps every member (1.5 GB for ImageNet)
and ends without a word at what is no header. Here a member must lie within the archive, and one that could reach
outside of it is refused. Archives that were concatenated (`cat a.tar b.tar`) are read one after another. An end mark
may be missing, as for GNU tar; whoever reads the log is told so, since the archive may have been cut there.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from data_tools.common.errors import UserError, printable
from data_tools.common.names import name_bytes, name_of

logger = logging.getLogger(__name__)

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(1 << 20)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_GNU_FOLDER, _GNU_VOLUME_LABEL, _GNU_CONTINUED = b"D", b"V", b"M"
# Whatever their size says, no data follows them in the archive (POSIX; GNU tar and tarfile read them so).
_WITHOUT_DATA = b"".join(
    (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
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

    A hard link is a file at the place of the member that it leads to. `label` names an inner archive in errors.
    """
    where = f"{path}{': ' + label if label else ''}"
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, start, 0, os.POSIX_FADV_RANDOM)  # headers only: no read-ahead of the pictures
        yield from _Archive(handle, where, start, os.fstat(handle).st_size if end is None else end).members()
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member of any kind. `at`: where its first header is, those that extend it included."""

    at: int
    kind: bytes
    name: str
    target: str  # of a link
    data: int
    size: int
    modified: int


class _Archive:
    """An open archive at bytes `start` to `end`."""

    def __init__(self, handle: int, where: str, start: int, end: int) -> None:
        self._handle, self._where, self._start, self._end = handle, where, start, end
        self._keys = self._places = np.zeros(0, np.uint64)  # of members, in the order of keys, once a link asks for it

    def members(self) -> Iterator[Member]:
        for entry in self._entries(self._start):
            self._check(entry)
            if entry.kind in _FILES:
                yield Member(entry.name, entry.data, entry.size, entry.modified)
            elif entry.kind == tarfile.LNKTYPE:
                target = self._target(entry)
                yield Member(entry.name, target.data, target.size, target.modified)

    def _entries(self, at: int) -> Iterator[_Entry]:
        defaults: dict[str, str] = {}
        extra: dict[str, str] = {}
        first, last = at, "nothing"
        while True:
            if at == self._end and not extra and last != "nothing":
                _warn_of_missing_end(self._where, last)
                return
            block = self._read(at, BLOCK, last)
            if block == _ZEROS[:BLOCK]:
                at = first = self._next_archive(at, last)
                defaults, extra = {}, {}
                if at == self._end:
                    return
                continue
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                what = f"no tar header at byte {at}, after {last} ({error})"
                raise SourceError(what, where=self._where, remedy="copy or download it again") from None
            said = defaults | extra
            size = 0 if info.type in _WITHOUT_DATA else int(said.get("size", info.size))
            data, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
            if data + size > self._end or size < 0:
                self._cut_short(f"within {said.get('path', _name(block))}")
            if info.type in _LONG or info.type in _PAX:
                (defaults if info.type == tarfile.XGLTYPE else extra).update(self._extra(info.type, data, size))
                continue
            last = said.get("path", _name(block))
            kind = tarfile.DIRTYPE if info.type in _FILES and last.endswith("/") else info.type  # as in the V7 format
            yield _Entry(first, kind, last, said.get("linkpath", info.linkname), data, size, int(info.mtime))
            first, extra = at, {}

    def _read(self, at: int, size: int, last: str) -> bytes:
        content = os.pread(self._handle, size, at)
        if len(content) < size or at + size > self._end:
            self._cut_short(f"after {last}")
        return content

    def _cut_short(self, place: str) -> NoReturn:
        raise SourceError(f"ends early, {place}", where=self._where, remedy="copy or download it again")

    def _next_archive(self, at: int, last: str) -> int:
        """Where another archive begins after the zeros from `at` on, the end mark and what fills the last record; or
        `end`."""
        while content := os.pread(self._handle, min(len(_ZEROS), self._end - at), at):
            if content != _ZEROS[: len(content)]:
                at += (len(content) - len(content.lstrip(b"\0"))) // BLOCK * BLOCK
                if looks_like_tar(os.pread(self._handle, BLOCK, at)):
                    return at
                raise SourceError(
                    f"ends after {last}, but is followed by something that is not a tar, from byte {at} on",
                    where=self._where,
                    remedy="copy or download it again, or cut that off",
                )
            at += len(content)
        return self._end

    def _extra(self, kind: bytes, data: int, size: int) -> dict[str, str]:
        """What a GNU long name or a pax header says about the member that follows it, or about all of them."""
        if size > _MAX_EXTRA:
            raise SourceError(f"a member's name at byte {data} takes {size} bytes", where=self._where)
        content = os.pread(self._handle, size, data)
        if kind in _LONG:
            return {_LONG[kind]: name_of(content.partition(b"\0")[0])}
        try:
            records = dict(_pax_records(content))
            int(records.get(b"size", b"0"))
        except ValueError:
            raise SourceError(f"a damaged pax header at byte {data}", where=self._where) from None
        if any(keyword.startswith(b"GNU.sparse") for keyword in records):
            raise SourceError(f"a sparse file at byte {data}, which is refused", where=self._where)
        if b"GNU.volume.filename" in records:
            raise self._continued(name_of(records[b"GNU.volume.filename"]))
        return {key.decode(): name_of(records[key]) for key in (b"path", b"linkpath", b"size") if key in records}

    def _continued(self, name: str) -> SourceError:
        what = f"begins within {name}: it is a later volume of a multi-volume archive"
        return SourceError(what, where=self._where, remedy="extract them with tar -xM, and give the folder")

    def _check(self, entry: _Entry) -> None:
        name, kind = entry.name, entry.kind
        if kind == _GNU_CONTINUED:
            raise self._continued(name)
        if kind == _GNU_VOLUME_LABEL:
            return
        if kind in _REFUSED:
            raise SourceError(f"{name} is {_REFUSED[kind]}, which is refused", where=self._where)
        if name.startswith("/") or ".." in name.split("/"):
            raise SourceError(f"{name} points outside of the archive, which is refused", where=self._where)
        if "\0" in name or not name:
            raise SourceError("a member without a usable name", where=self._where)
        if kind not in (*_FILES, tarfile.LNKTYPE, tarfile.DIRTYPE, _GNU_FOLDER):
            raise SourceError(f"{name} is of an unknown kind ({kind!r})", where=self._where)

    # ------------------------------------------------------------------------------------------ hard links
    def _target(self, link: _Entry) -> _Entry:
        """The regular file that a hard link leads to, which lies before it in the archive."""
        if not len(self._keys):
            self._index_names()
        entry: _Entry | None = link
        while entry is not None and entry.kind == tarfile.LNKTYPE:
            entry = self._last_before(entry.at, entry.target)
        if entry is None:
            raise SourceError(
                f"{link.name} is a hard link to {link.target}, which does not come before it in the archive",
                where=self._where,
                remedy="archive the whole folder, or use tar --hard-dereference",
            )
        return entry

    def _index_names(self) -> None:
        """Hash and place of every file and link: 16 bytes each, where a million names would take 100 MB."""
        keys, places = array("Q"), array("Q")
        for entry in self._entries(self._start):
            if entry.kind in (*_FILES, tarfile.LNKTYPE):
                keys.append(_key(entry.name))
                places.append(entry.at)
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self._keys, self._places = np.array(keys, np.uint64)[order], np.array(places, np.uint64)[order]

    def _last_before(self, at: int, name: str) -> _Entry | None:
        key = np.uint64(_key(name))
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for place in self._places[low:high][::-1].tolist():
            if place < at:
                entry = next(self._entries(place))
                if _parts(entry.name) == _parts(name):
                    return entry
        return None


@functools.cache  # headers may be read several times
def _warn_of_missing_end(where: str, last: str) -> None:
    logger.warning(
        "%s: no end mark after %s; if it was cut short there, copy it again", printable(where), printable(last)
    )


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each record, which is `LENGTH KEYWORD=VALUE` and a line end. ValueError if one is not."""
    at, content = 0, content.rstrip(b"\0")
    while at < len(content):
        space = content.index(b" ", at)
        end = at + int(content[at:space])
        if not space < end - 1 < len(content):
            raise ValueError("a record that is not within the header")
        keyword, _, value = content[space + 1 : end - 1].partition(b"=")
        yield keyword, value
        at = end


def _name(block: bytes) -> str:
    """The name in a header. Only POSIX has a prefix; GNU tar keeps times in its place, which tarfile overlooks."""
    name, prefix = (part.partition(b"\0")[0] for part in (block[:100], block[345:500]))
    return name_of(prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _key(name: str) -> int:
    digest = hashlib.blake2b(name_bytes("/".join(_parts(name))), digest_size=8).digest()
    return int.from_bytes(digest, "little")
