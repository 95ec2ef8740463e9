"""Locates the members of an uncompressed tar from its headers, without extracting anything.

Python's tarfile reads the headers. It ends without a word at what is no header; here that is an error, and so is a
member that does not lie within the archive or could reach outside of it. Archives that were concatenated (`cat a.tar
b.tar`) are read one after another. An end mark may be missing, as for GNU tar; a warning says so, since the archive may
have been cut there.
"""

from __future__ import annotations

import functools
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from data_tools.common.errors import UserError, printable
from data_tools.common.names import name_of

logger = logging.getLogger(__name__)

BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20  # of zeros
_GNU_FOLDER, _GNU_VOLUME_LABEL, _GNU_CONTINUED = b"D", b"V", b"M"
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PASSED_OVER = (tarfile.DIRTYPE, _GNU_FOLDER, _GNU_VOLUME_LABEL)
_REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_EXTENDING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
_MAX_EXTENSION = 1 << 20  # bytes of a long name or a pax header
COPY_AGAIN = "copy or download it again"


class SourceError(UserError, ValueError):
    """A source that is damaged, incomplete or not safe to read."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file: `length` bytes at `offset` of the open file that holds the archive, `modified` in seconds."""

    name: str
    offset: int
    length: int
    modified: int
    handle: int

    def start(self, count: int) -> bytes:
        """The first bytes, as many as are asked for; while `members` goes on."""
        return os.pread(self.handle, min(count, self.length), self.offset)


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if buf[257:263] != b"ustar\0":  # only POSIX has a prefix; GNU tar keeps times in its place
            name = name_of(bytes(buf[:100]).partition(b"\0")[0])
            header.name = name.rstrip("/") if header.isdir() else name
        if header.size < 0 or (header.type in _EXTENDING and header.size > _MAX_EXTENSION):
            raise tarfile.HeaderError(f"{header.size} bytes")
        return header


def looks_like_tar(start: bytes) -> bool:
    """Whether these first 512 bytes are a tar header (its checksum holds)."""
    try:
        _Header.frombuf(start[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def members(path: Path, start: int = 0, end: int | None = None, label: str = "") -> Iterator[Member]:
    """The regular files of the tar at bytes `start` to `end` of a file, in archive order. Raises SourceError.

    A hard link is a file at the place of the last member before it that has the name of its target. `label` names an
    inner archive in errors.
    """
    where = f"{path}{': ' + label if label else ''}"
    with path.open("rb", buffering=0) as file:
        handle = file.fileno()
        os.posix_fadvise(handle, start, 0, os.POSIX_FADV_RANDOM)  # headers only: no read-ahead of the pictures
        archive = _Archive(file, where, start, os.fstat(handle).st_size if end is None else end)
        targets: set[str] | None = None  # of all hard links, once there is one
        found: dict[str, Member] = {}  # the last member that has such a name
        for header in archive.headers():
            _check(header, where)
            if header.islnk() and targets is None:
                targets = {_plain(each.linkname) for each in archive.headers() if each.islnk()}
                earlier = (each for each in archive.headers(header.offset) if _plain(each.name) in targets)
                found = {_plain(each.name): _member(each, handle) for each in earlier}
            if header.type in _PASSED_OVER:
                continue
            member = _member(header, handle)
            if header.islnk():
                if (target := found.get(_plain(header.linkname))) is None:
                    what = f"{header.name} is a hard link to {header.linkname}, which does not come before it"
                    remedy = "archive the whole folder, or use tar --hard-dereference"
                    raise SourceError(f"{what} in the archive", where=where, remedy=remedy)
                member = replace(target, name=header.name)
            if targets and _plain(member.name) in targets:
                found[_plain(member.name)] = member
            yield member


def _member(header: tarfile.TarInfo, handle: int) -> Member:
    return Member(header.name, header.offset_data, header.size, int(header.mtime), handle)


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


@dataclass(frozen=True, slots=True)
class _Archive:
    """An archive at bytes `start` to `end` of a file, or several that follow one another."""

    file: BinaryIO
    where: str
    start: int
    end: int

    def headers(self, end: int | None = None) -> Iterator[tarfile.TarInfo]:
        """Those of all members, or of those that begin before `end`."""
        at, last = self.start, "nothing"
        end = self.end if end is None else end
        while at < end:
            self.file.seek(at)
            try:
                tar = tarfile.TarFile(fileobj=self.file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
                while at < end and (header := tar.next()):
                    tar.members.clear()  # type: ignore[attr-defined]  # which would take 1.5 GB for ImageNet
                    if tar.offset > self.end:
                        raise SourceError(f"ends early, within {header.name}", where=self.where, remedy=COPY_AGAIN)
                    yield header
                    at, last = tar.offset, header.name
                    self.file.seek(at)
            except (tarfile.TarError, ValueError) as error:  # ValueError: numbers of a pax header
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"ends early, after {last} ({error})", where=self.where, remedy=COPY_AGAIN) from None
            if at == self.end:
                _warn_of_missing_end(self.where, last)
            elif at < end:
                at = self._next(at, last)

    def _next(self, at: int, last: str) -> int:
        """Where the next archive begins, after zeros: the end mark and what fills the last record. Or `end`."""
        zeros = at
        while chunk := os.pread(self.file.fileno(), min(_CHUNK, self.end - zeros), zeros):
            if rest := chunk.lstrip(b"\0"):
                zeros += (len(chunk) - len(rest)) // BLOCK * BLOCK
                break
            zeros += len(chunk)
        if at + BLOCK > self.end:
            what = f"ends early, after {last}"
        elif zeros == self.end or (zeros > at and looks_like_tar(os.pread(self.file.fileno(), BLOCK, zeros))):
            return zeros
        elif zeros > at:
            what = f"ends after {last}, but is followed by something that is not a tar, from byte {zeros} on"
        else:
            what = f"no tar header at byte {at}, after {last}"
        raise SourceError(what, where=self.where, remedy=COPY_AGAIN)


@functools.cache  # headers may be read several times
def _warn_of_missing_end(where: str, last: str) -> None:
    where, last = printable(where), printable(last)
    logger.warning("%s: no end mark after %s; if it was cut short there, copy it again", where, last)


def _check(header: tarfile.TarInfo, where: str) -> None:
    """Raise SourceError for a member that cannot be read, or could reach outside of the archive."""
    name = header.name
    if header.type == _GNU_CONTINUED or "GNU.volume.filename" in header.pax_headers:
        name = header.pax_headers.get("GNU.volume.filename", name)
        what = f"begins within {name}: it is a later volume of a multi-volume archive"
        raise SourceError(what, where=where, remedy="extract them with tar -xM, and give the folder")
    if header.type in _REFUSED or any(key.startswith("GNU.sparse") for key in header.pax_headers):
        raise SourceError(f"{name} is {_REFUSED.get(header.type, 'a sparse file')}, which is refused", where=where)
    if header.type == _GNU_VOLUME_LABEL:
        return
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"{name} points outside of the archive, which is refused", where=where)
    if "\0" in name or not name:
        raise SourceError("a member without a usable name", where=where)
    if header.type not in (*_FILES, *_PASSED_OVER, tarfile.LNKTYPE):
        raise SourceError(f"{name} is of an unknown kind ({header.type!r})", where=where)
