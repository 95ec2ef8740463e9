"""One program at a time writes to a folder, and a second one is told which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.common import files
from data_tools.common.errors import UserError
from data_tools.common.files import locked


def test_second_holder_is_told_who_holds_it_since_when(tmp_path: Path) -> None:
    with (
        locked(tmp_path, "a training"),
        pytest.raises(UserError, match=rf"a training is writing there, process {os.getpid()} on \w+, since 20.* UTC"),
        locked(tmp_path, "a training"),
    ):
        pass
    with locked(tmp_path, "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
from pathlib import Path
from data_tools.common.files import locked
with locked(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_ends_with_a_killed_process_of_this_machine(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"), locked(tmp_path, "a training"):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / files.LOCK).exists()
    with locked(tmp_path, "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_empty_lock_of_a_killed_process_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "EMPTY_LOCK_SECONDS", 0.1)
    (tmp_path / files.LOCK).touch()
    with locked(tmp_path, "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_of_another_machine_holds_until_its_file_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / files.LOCK
    lock.write_text("7\nelsewhere\n")
    with (
        pytest.raises(UserError, match=f"process 7 on elsewhere, since .*; if it is gone, remove {lock}"),
        locked(tmp_path, "a training"),
    ):
        pass
    lock.unlink()
    with locked(tmp_path, "a training"):
        assert lock.read_text().splitlines()[0] == str(os.getpid())
