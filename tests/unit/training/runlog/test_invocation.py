"""What a run was made with: command and commit."""

import subprocess
from pathlib import Path

import pytest

from training.runlog import invocation


def test_commit_of_a_checkout_and_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invocation.git_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    answers = {"rev-parse": "0123abc\n", "status": ""}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == ["git", "-C", str(tmp_path)]
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[3]])

    monkeypatch.setattr(subprocess, "run", run)
    assert invocation.git_commit(tmp_path) == "0123abc"
    answers["status"] = " M training/trainer.py\n"
    assert invocation.git_commit(tmp_path) == "0123abc+changes"

    def fails(command: list[str], **_: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert invocation.git_commit(tmp_path) is None


def test_command_is_the_one_that_the_launcher_was_started_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(invocation.COMMAND, "train_imagenet.py --run.seed=1")
    assert invocation.command() == "train_imagenet.py --run.seed=1"
    monkeypatch.delenv(invocation.COMMAND)
    monkeypatch.setattr("sys.orig_argv", ["python", "a script.py", "caf\udce9"])
    assert invocation.command() == r"python 'a script.py' 'caf\udce9'"
