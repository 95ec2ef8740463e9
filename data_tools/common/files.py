"""Atomic writes, and the limit on open files."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from data_tools.common.errors import UserError


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which replaces it if the block succeeds and is removed otherwise.

    It is synced first, so that ``path`` is the whole old file or the whole new one even after a power cut. It keeps
    the suffix, from which some writers infer the format.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it exists completely or not at all."""
    with partial_file(path) as partial:
        partial.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def warn_on_write_error(what: str) -> Iterator[None]:
    """Turn an OSError into a warning: a full disk must not end a run."""
    try:
        yield
    except OSError as error:
        print(f"warning: {what} not written: {error}", file=sys.stderr)


def too_many_open_files(error: BaseException, where: object = "") -> UserError | None:
    """The error with its remedy, if it is one of the limit on open files of this process or of the machine."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    if error.errno == errno.ENFILE:
        return UserError("the machine has too many open files", where=where, remedy="end what holds them")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    remedy = "raise the limit with `ulimit -n 4096`, or give fewer --write.workers"
    return UserError(f"too many open files: the limit is {limit}", where=where, remedy=remedy)


def replace_between(text: str, begin: str, end: str, content: str) -> str:
    """`text` with `content` between its two marks. UserError where it has not each of them once in this order."""
    if text.count(begin) != 1 or end not in text.partition(begin)[2]:
        raise UserError(f"the page lacks its marks, {begin} and {end}")
    head, rest = text.split(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
