"""Processes that a test started, waiting for what they do, and a limit of this one."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers import ROOT


def peak_megabytes(*command: object) -> int:
    """Run a program of the project to its end; the most memory that it has held. (What getrusage says may be the
    parent's.)"""
    arguments = [sys.executable, *map(str, command)]
    peak, process = 0, subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it ended meanwhile
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) // 1024 if found else 0)
        time.sleep(0.1)
    assert process.returncode == 0
    return peak


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside the block, writing beyond ``size`` bytes of a file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def processes_of_session(session: int) -> list[int]:
    """The processes of a session that still run; not those that only wait for their parent to take note."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session and (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_for_end_of_session(session: int) -> None:
    """Until no process of a session is left."""
    wait_until(lambda: not processes_of_session(session), 10)
