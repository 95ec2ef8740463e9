"""Atomic writes, the lock of a folder, and the limit on open files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_tools.common.errors import UserError

logger = logging.getLogger(__name__)
LOCK = ".lock"
BEAT_SECONDS = 5.0
WATCH_SECONDS = 3 * BEAT_SECONDS
STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))  # what is in them leads to open files and devices


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which replaces it if the block succeeds and is removed otherwise.

    It is synced first, so that ``path`` is the whole old file or the whole new one even after a power cut. It keeps
    the suffix, from which some writers infer the format. A device or a pipe, as /dev/stdout, cannot be replaced: it is
    yielded itself. An OSError names ``path``.
    """
    in_place = path.parent in STREAMS or (path.exists() and not path.is_file() and not path.is_dir())
    partial = path if in_place else path.with_name(f"{path.stem}.partial{path.suffix}")
    if path.is_dir():  # known before the work is done
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        yield partial
        if in_place:
            return
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        if not in_place:
            with contextlib.suppress(OSError):  # the folder, too, may not be there
                partial.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it exists completely or not at all."""
    with partial_file(path) as partial:
        partial.write_bytes(content)


def append_whole(path: Path, content: bytes) -> None:
    """Append ``content`` to a file: all of it, or none and an OSError. A device or a pipe may take a part."""
    with path.open("ab", buffering=0) as file:
        before = file.tell() if path.is_file() else None
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if before is not None:
                file.truncate(before)
            raise


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_address(path: Path) -> bool:
    """Whether it is no path but an address, as https://host/file; a Path has only one of the slashes."""
    return re.match(r"\w+:/", str(path)) is not None and not path.exists()


def folder_fault(folder: Path) -> str:
    """Why ``folder`` cannot be written to or made, "" if nothing is in the way. Creates nothing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return "" if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written to"


@contextlib.contextmanager
def warn_on_write_error(what: str) -> Iterator[None]:
    """Turn an OSError into a warning: a full disk must not end a run."""
    try:
        yield
    except OSError as error:
        logger.warning("%s not written: %s", what, error)


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of ``folder`` for ``what`` ("a training"). UserError if another program holds it.

    The kernel's lock is released however its holder ends, but does not reach every machine of every shared disk. So the
    holder also counts up in the file, and whoever finds another machine's file watches for a while whether it does.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle, is_exclusive = _open(path)
    holder = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%F %T} UTC"}
    try:
        before = _read(path)
        if before and (not is_exclusive or before.get("host") != holder["host"]):
            _watch(path, before)
    except BaseException:
        os.close(handle)
        raise
    ended = threading.Event()
    _beat(handle, holder, 0)
    thread = threading.Thread(target=_keep_beating, args=(handle, holder, ended), daemon=True, name="lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)
        os.close(handle)
        if is_new:
            with contextlib.suppress(OSError):  # unless something is in it by now
                folder.rmdir()


def _open(path: Path) -> tuple[int, bool]:
    """The open file, and whether the kernel's lock is held; UserError if another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise _held(path, _read(path)) from None
        except OSError:
            return handle, False  # a file system without locks
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle, True
        os.close(handle)  # its last holder removed the file after it was opened here


def _read(path: Path) -> dict[str, Any]:
    """What the holder wrote; nothing if there is none, or if it is writing just now."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _watch(path: Path, before: dict[str, Any]) -> None:
    """UserError if the holder is alive."""
    who = f"process {before.get('pid')} on {before.get('host')}"
    logger.info("%s: waiting %.0f s to see whether %s still writes there", path.parent, WATCH_SECONDS, who)
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 5)
        now = _read(path)
        if now and now != before:
            raise _held(path, now)


def _keep_beating(handle: int, holder: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT_SECONDS):
        count += 1
        _beat(handle, holder, count)


def _beat(handle: int, holder: dict[str, Any], count: int) -> None:
    text = json.dumps({**holder, "beats": count}).encode()
    with contextlib.suppress(OSError):  # a full disk
        os.pwrite(handle, text, 0)
        os.ftruncate(handle, len(text))
        os.fsync(handle)


def _held(path: Path, holder: dict[str, Any]) -> UserError:
    who = f", process {holder['pid']} on {holder['host']}, since {holder['since']}" if "since" in holder else ""
    what = f"{holder.get('what', 'another program')} is writing there{who}"
    return UserError(what, where=path.parent, remedy="wait until it ends, stop it, or give another folder")


def too_many_open_files(error: BaseException, where: object = "") -> UserError | None:
    """The error with its remedy, if this process or the machine has reached its limit on open files."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    if error.errno == errno.ENFILE:
        return UserError("the machine has too many open files", where=where, remedy="close programs that hold them")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    remedy = "raise the limit with `ulimit -n 4096`, or give fewer --write.workers"
    return UserError(f"too many open files: the limit is {limit}", where=where, remedy=remedy)


def replace_between(text: str, begin: str, end: str, content: str) -> str:
    """`text` with `content` between its two marks. UserError unless it has each of them once, in this order."""
    if text.count(begin) != 1 or end not in text.partition(begin)[2]:
        raise UserError(f"the page lacks its marks, {begin} and {end}")
    head, rest = text.split(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
