"""Atomic writes, the lock of a folder, and the limit on open files."""

import contextlib
import errno
import logging
import os
import re
import resource
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from data_tools.common.errors import UserError

logger = logging.getLogger(__name__)
LOCK = ".lock"
LOCK_SECONDS = 0.1  # time for a second attempt, which a lock that was left behind may take
EMPTY_LOCK_SECONDS = 2.0  # whoever has just made a lock has written into it by then
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


def check_output(path: Path, *suffixes: str) -> None:
    """UserError unless a tool whose files have one of ``suffixes`` may write to ``path``. It replaces only such files,
    and no checkpoint of a run, whatever its name is."""
    if not path.is_file() or path.parent in STREAMS:
        return
    is_checkpoint = holds_optimizer(path)
    if is_checkpoint or path.suffix.lower() not in suffixes:
        what = "is a checkpoint of a run" if is_checkpoint else f"already exists, and is not a {' or '.join(suffixes)}"
        raise UserError(f"{what}: it is not replaced", where=path, remedy="give another name")


def holds_optimizer(path: Path) -> bool:
    """Whether torch saved an optimizer into ``path``: only runs do. Nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(n.endswith("/data.pkl") and b"optimizer" in file.read(n) for n in file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


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
    """Make renames in a folder survive a power cut, where its file system can: EINVAL comes of VirtualBox's shares and
    old CIFS, ENOTSUP of some in user space."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        os.close(handle)


def is_address(path: Path) -> bool:
    """Whether it is no path but an address, as https://host/file; a Path has only one of the slashes."""
    return re.match(r"\w+:/", str(path)) is not None and not path.exists()


def folder_fault(folder: Path) -> str:
    """Why ``folder`` cannot be written to or made, "" if nothing is in the way. Creates nothing."""
    if is_address(folder):
        return f"{folder} is an address"
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

    Whoever makes the file `LOCK` holds it, on file systems without locks, too. One that a process of this machine left
    behind is taken; whether one of another machine still runs cannot be told from here, so the user decides.
    """
    from filelock import SoftFileLock, Timeout  # takes 0.1 s

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    _remove_empty_lock(path)
    lock = SoftFileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise _held(path, what) from None
    try:
        yield
    finally:
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # unless something is in it by now
                folder.rmdir()


def _remove_empty_lock(path: Path) -> None:
    """Remove the lock of a program that was killed, or lost power, before it wrote its number. filelock keeps it."""
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_size == 0:
            time.sleep(EMPTY_LOCK_SECONDS)
            now = path.stat()
            if (now.st_size, now.st_ino, now.st_ctime_ns) == (0, found.st_ino, found.st_ctime_ns):
                path.unlink()


def _held(path: Path, what: str) -> UserError:
    """The error that names the holder, who wrote process and machine into the file."""
    who = ""
    with contextlib.suppress(OSError, ValueError):  # it may be gone by now
        pid, host, *_ = path.read_text(encoding="utf-8").splitlines()
        since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        who = f", process {pid} on {host.partition('?')[0]}, since {since:%F %T} UTC"  # after "?": its container
    remedy = f"wait until it ends, stop it, or give another folder; if it is gone, remove {path}"
    return UserError(f"{what} is writing there{who}", where=path.parent, remedy=remedy)


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
