"""Training runs in processes of their own, to be killed, stopped and compared."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from training.model import checkpoint
from training.runlog.epoch_table import read_epochs

RECIPE = """
model: {{arch: resnet18}}
train: {{amp: fp32, ema: 0.9, mixup: 0.2}}
dist: {{device: cpu}}
run: {{deterministic: true, checkpoint_minutes: 0}}
data: {{dir: {betons}, workers: 1}}
schedule:
  phases:
    - {{epochs: [0, 2], px: 64, batch_per_gpu: 4, data: 160, lr: [{{epochs: [0, 3], from: 0.002, to: 0.001}}]}}
    - {{epochs: [2, 3], px: 96, batch_per_gpu: 4, data: full, min_scale: 0.5, rectangular_val: true}}
"""


SERVER = multiprocessing.get_context("forkserver")
# A process forked from one that has torch loaded starts in milliseconds.
SERVER.set_forkserver_preload(["training.trainer", "train_imagenet"])


def _run(argv: list[str], log: Path) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    import train_imagenet

    status = train_imagenet.main(argv)
    sys.stderr.flush()
    os._exit(status)


class Run:
    """train_imagenet.py in a process of its own."""

    def __init__(self, recipe: Path, run_dir: Path, *more: str) -> None:
        run_dir.mkdir(exist_ok=True)
        self.log = run_dir / "stderr.txt"
        argv = ["--config-file", str(recipe), f"--run.dir={run_dir}", *more]
        self.process = SERVER.Process(target=_run, args=(argv, self.log))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join(60)

    def finish(self, status: int = 0) -> str:
        self.process.join(300)
        said = self.log.read_text()
        assert self.process.exitcode == status, said
        return said


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def batches_done(run_dir: Path) -> int:
    """Batches that the newest checkpoint holds, over all epochs of 10."""
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        try:
            progress = torch.load(run_dir / name, weights_only=True)["progress"]
        except (OSError, RuntimeError, EOFError):
            continue  # between two renames
        return 10 * progress["epoch"] + progress["batch"]
    return 0


def assert_same_end(run_dir: Path, undisturbed: Path) -> None:
    ours, theirs = (checkpoint.load(d / checkpoint.LAST) for d in (run_dir, undisturbed))
    for part in ("model", "ema"):
        for key, weight in theirs[part].items():
            assert torch.equal(weight, ours[part][key]), (part, key)
    rows = [
        [(r.epoch, r.top1, r.top5, r.train_loss, r.lr, r.px, r.ema_top5) for r in read_epochs(d)]
        for d in (run_dir, undisturbed)
    ]
    assert rows[0] == rows[1]


def process_group(process: Run) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == process.pid:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def workers_of(process: Run) -> list[int]:
    """The launcher's own children that train (multiprocessing's helper does not)."""
    found = []
    for pid in process_group(process):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in words:
            found.append(pid)
    return sorted(found)
