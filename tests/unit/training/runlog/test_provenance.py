"""What a run was made with: command, commit, page cache."""

import os
import subprocess
from pathlib import Path

import pytest

from training.runlog import provenance


def test_file_just_written_is_cached_and_a_dropped_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(3 << 20))
    assert provenance.cached_percent(path) == 100
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 1 << 20, os.POSIX_FADV_DONTNEED)
    share = provenance.cached_percent(path)
    # A file system in memory keeps what it is told to drop.
    assert share is not None and (share == pytest.approx(100 * 2 / 3, abs=5) or share == 100)


def test_unknown_where_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert provenance.cached_percent(tmp_path / "empty") is None
    assert provenance.cached_percent(tmp_path / "none") is None


def test_kernel_is_not_asked_about_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 9000)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert provenance.cached_percent(path) is None


def test_commit_of_a_checkout_and_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.git_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    answers = {"rev-parse": "0123abc\n", "status": ""}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == ["git", "-C", str(tmp_path)]
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[3]])

    monkeypatch.setattr(subprocess, "run", run)
    assert provenance.git_commit(tmp_path) == "0123abc"
    answers["status"] = " M training/trainer.py\n"
    assert provenance.git_commit(tmp_path) == "0123abc+changes"

    def fails(command: list[str], **_: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert provenance.git_commit(tmp_path) is None


def test_command_is_the_one_that_the_launcher_was_started_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMAND, "train_imagenet.py --run.seed=1")
    assert provenance.command() == "train_imagenet.py --run.seed=1"
    monkeypatch.delenv(provenance.COMMAND)
    monkeypatch.setattr("sys.orig_argv", ["python", "a script.py"])
    assert provenance.command() == "python 'a script.py'"
