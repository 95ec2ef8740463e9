"""What a run was made with: the command, the sources' commit, and how much of its data was in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The processes that the launcher starts have another command line; they inherit the environment.
COMMAND = "TRAIN_IMAGENET_COMMAND"
PAGES = 4096  # sampled from a file: gives its share to within 1.6 points, in milliseconds


def command() -> str:
    """The command that started this run."""
    return os.environ.get(COMMAND) or shlex.join(sys.orig_argv)


def git_commit(root: Path = ROOT) -> str | None:
    """The commit of a checkout, with ``+changes`` where files differ from it; None outside one, or without git."""
    if not (root / ".git").exists():
        return None
    try:
        head, changes = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changes else head


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def cached_percent(path: Path) -> float | None:
    """How much of a file is in the page cache, in percent, from evenly spaced pages; None if the kernel does not tell:
    for a file that is neither one's own nor writable, it reports every page as cached."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not status.st_size or not (status.st_uid == os.geteuid() or os.access(path, os.W_OK)):
            return None
        return _resident_percent(fd, status.st_size)
    finally:
        os.close(fd)


def _resident_percent(fd: int, size: int) -> float | None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    # Mapped, but never read: a file that is cut meanwhile raises no signal.
    begin = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if begin in (None, ctypes.c_void_p(-1).value):
        return None
    try:
        pages, state, resident = -(-size // mmap.PAGESIZE), ctypes.create_string_buffer(1), 0
        looked_at = range(0, pages, -(-pages // PAGES))
        for page in looked_at:
            if libc.mincore(begin + page * mmap.PAGESIZE, 1, state):
                return None
            resident += state.raw[0] & 1
        return round(100 * resident / len(looked_at), 1)
    finally:
        libc.munmap(begin, size)
