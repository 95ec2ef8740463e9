"""Processes that a test started, and waiting for what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
