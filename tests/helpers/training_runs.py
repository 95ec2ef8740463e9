"""Training runs: in this process, or in one of their own to be killed, stopped and compared."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train_imagenet
from helpers import ROOT
from helpers.processes import processes_of_session, wait_until
from training import evaluate
from training.model import checkpoint
from training.runlog.epoch_table import read_epochs
from training.runlog.step_table import read_steps

BATCHES_BEFORE_EPOCH = (0, 5, 10, 20)  # of the tiny recipe
BATCHES = BATCHES_BEFORE_EPOCH[-1]
SERVER = multiprocessing.get_context("forkserver")
# A process forked from one that has torch loaded starts in milliseconds.
SERVER.set_forkserver_preload(["training.trainer", "train_imagenet"])


def run_main(main: Callable[[list[str]], int], arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a program, in this process: torch is loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


def attempt(recipe: Path, run_dir: Path, *options: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of train_imagenet.py."""
    return run_main(train_imagenet.main, training_arguments(recipe, run_dir, *options))


def train(recipe: Path, run_dir: Path, *options: str) -> str:
    """Standard output of a run that has to succeed."""
    status, out, err = attempt(recipe, run_dir, *options)
    assert status == 0, err
    return out


def stop_at_evaluation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send SIGTERM to this process as its evaluation ``number`` begins."""
    from training import trainer  # not for all: it loads FFCV

    validate, begun = trainer.evaluate, []

    def stop(*args: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args)

    monkeypatch.setattr(trainer, "evaluate", stop)


def evaluated(recipe: Path, weights: Path, *options: str) -> str:
    """Standard output of training.evaluate, which has to succeed."""
    status, out, err = run_main(evaluate.main, [str(weights), "--config-file", str(recipe), *options])
    assert status == 0, err
    return out


def training_arguments(recipe: Path, run_dir: Path, *options: str) -> list[str]:
    return ["--config-file", str(recipe), f"--run.dir={run_dir}", *options]


def training_script(recipe: Path, run_dir: Path, *options: str) -> list[str]:
    """train_imagenet.py with its arguments, for a new Python or for torchrun."""
    return [str(ROOT / "train_imagenet.py"), *training_arguments(recipe, run_dir, *options)]


class TrainingProcess:
    """train_imagenet.py in a process and a session of its own; what it prints goes to files in the run's folder.

    On a GPU it starts anew: to import FFCV loads CUDA, which a forked process cannot use.
    """

    def __init__(self, recipe: Path, run_dir: Path, *options: str) -> None:
        run_dir.mkdir(exist_ok=True)
        self.logs = run_dir / "stdout.txt", run_dir / "stderr.txt"
        arguments = training_arguments(recipe, run_dir, *options)
        context = multiprocessing.get_context("spawn") if "--dist.device=cuda" in options else SERVER
        self.process = context.Process(target=run_with_logs, args=(arguments, self.logs))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join(60)

    def wait_for_batches(self, number: int) -> None:
        """Until its newest checkpoint holds ``number`` batches or more."""
        folder = self.logs[0].parent
        wait_until(lambda: batches_done(folder) >= number or not self.process.is_alive(), 240)
        assert batches_done(folder) >= number, self.logs[1].read_text()

    def finish(self, status: int = 0, seconds: float = 300) -> tuple[str, str]:
        """Standard output and standard error; it has to end with ``status``."""
        self.process.join(seconds)
        out, err = (log.read_text() for log in self.logs)
        assert self.process.exitcode == status, err
        return out, err


def run_with_logs(arguments: list[str], logs: tuple[Path, Path]) -> None:
    os.setsid()
    for number, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    status = train_imagenet.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def batches_done(run_dir: Path) -> int:
    """Batches that the newest checkpoint holds, over all epochs of the tiny recipe."""
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        try:
            progress = torch.load(run_dir / name, weights_only=True)["progress"]
        except (OSError, RuntimeError, EOFError):
            continue  # between two renames
        return BATCHES_BEFORE_EPOCH[progress["epoch"]] + progress["batch"]
    return 0


def assert_same_result(run_dir: Path, expected: Path) -> None:
    """Both runs have the same weights and averaged weights bit for bit, the same epochs but for times, and the same
    steps."""
    ours, theirs = (checkpoint.load(folder / checkpoint.LAST) for folder in (run_dir, expected))
    assert ours["progress"]["images_seen"] == theirs["progress"]["images_seen"]
    for part in ("model", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        for key, weight in theirs[part].items():
            assert torch.equal(weight, ours[part][key]), (part, key)
    rows = [
        [(r.epoch, r.top1, r.top5, r.train_loss, r.lr, r.px, r.ema_top1, r.ema_top5) for r in read_epochs(folder)]
        for folder in (run_dir, expected)
    ]
    assert rows[0] == rows[1]
    assert read_steps(run_dir) == read_steps(expected)


def ranks_of(launcher: TrainingProcess | subprocess.Popen[str]) -> list[int]:
    """The launcher's children that train; multiprocessing's own helper process does not."""
    found = []
    for pid in processes_of_session(launcher.pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return sorted(found)
