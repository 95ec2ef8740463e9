"""One program at a time writes to a folder, and a second one is told which."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from data_tools.common import files
from data_tools.common.errors import UserError
from data_tools.common.files import locked


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(files, "WATCH_SECONDS", 0.3)


def test_second_holder_is_told_who_holds_it_since_when(tmp_path: Path) -> None:
    with (
        locked(tmp_path, "a training"),
        pytest.raises(UserError, match=rf"a training is writing there, process {os.getpid()} on .*, since 20.* UTC"),
        locked(tmp_path, "a training"),
    ):
        pass
    with locked(tmp_path, "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_dead_process_of_this_machine_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path, "a training"):
        left_behind = (tmp_path / files.LOCK).read_text()
    (tmp_path / files.LOCK).write_text(left_behind)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: pytest.fail("waited"))
    with locked(tmp_path, "a training"):
        pass


def write_holder(folder: Path, beats: int) -> None:
    holder = {"what": "a training", "pid": 7, "host": "elsewhere", "since": "2026-01-01 00:00:00 UTC", "beats": beats}
    (folder / files.LOCK).write_text(json.dumps(holder))


def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("kernel_locks", [True, False])
def test_lock_of_another_machine_holds_while_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_locks: bool
) -> None:
    write_holder(tmp_path, 1)
    if not kernel_locks:
        no_kernel_locks(monkeypatch)
    timer = threading.Timer(0.05, write_holder, (tmp_path, 2))
    timer.start()
    with pytest.raises(UserError, match="process 7 on elsewhere, since 2026"), locked(tmp_path, "a training"):
        pass
    timer.join()
    with locked(tmp_path, "a training"):  # it counts no more
        assert json.loads((tmp_path / files.LOCK).read_text())["pid"] == os.getpid()
