"""A run that is killed, preempted or damaged on the way ends as an undisturbed one does, or says why not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.runlog import read_epochs

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


@pytest.fixture(scope="module")
def recipe(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(betons=betons))
    return path


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


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    Run(recipe, run_dir).finish()
    return run_dir


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


@pytest.mark.parametrize("after", [3, 24])
def test_killed_within_an_epoch(recipe: Path, undisturbed: Path, tmp_path: Path, after: int) -> None:
    process = Run(recipe, tmp_path)
    until(lambda: batches_done(tmp_path) >= after)
    process.kill()
    assert after <= batches_done(tmp_path) < 30
    Run(recipe, tmp_path).finish()
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop(recipe: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = Run(recipe, tmp_path, "--run.checkpoint_minutes=60")
    until(lambda: (tmp_path / "epochs.csv").exists())
    time.sleep(0.3)
    process.signal(number)
    assert "the same command continues" in process.finish(75)
    stopped_at = batches_done(tmp_path)
    assert 0 < stopped_at < 30
    # Where it stopped does not depend on how often it saves.
    Run(recipe, tmp_path).finish()
    assert_same_end(tmp_path, undisturbed)


def test_a_damaged_newest_checkpoint_falls_back(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = Run(recipe, tmp_path)
    until(lambda: batches_done(tmp_path) >= 12)
    process.kill()
    until(lambda: (tmp_path / checkpoint.LAST).exists())
    last = tmp_path / checkpoint.LAST
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(bytes(content))
    assert "does not match its checksum" in Run(recipe, tmp_path).finish()
    assert_same_end(tmp_path, undisturbed)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(recipe: Path, tmp_path: Path) -> None:
    huge = "[{'ep': 0, 'sz': 64, 'bs': 4, 'trndir': '-sz/160'}, {'ep': (0, 1), 'lr': (0.001, 0.001)}, "
    huge += "{'ep': (1, 4), 'lr': (1e30, 1e30)}]"
    config = tmp_path / "diverging.yaml"
    config.write_text(RECIPE.format(betons="x").split("data:")[0])
    betons = next(line for line in recipe.read_text().splitlines() if line.startswith("data:")).split("dir: ")[1]
    more = (f"--data.dir={betons.split(',')[0]}", f"--schedule.imagenet18={huge}", "--train.ema=0")
    err = Run(config, tmp_path / "run", *more).finish(1)
    assert "no finite loss or gradient for" in err
    assert "at 64 px, lr 1e+30" in err
    state = checkpoint.load(tmp_path / "run" / checkpoint.LAST)
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


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


def test_two_processes_fall_together(recipe: Path, tmp_path: Path) -> None:
    process = Run(recipe, tmp_path, "--dist.processes=2")
    until(lambda: batches_done(tmp_path) > 0, 240)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert "failed first" in process.finish(1)
    until(lambda: not process_group(process), 10)


@pytest.mark.slow
def test_two_processes_stop_and_continue(recipe: Path, tmp_path: Path) -> None:
    process = Run(recipe, tmp_path, "--dist.processes=2", "--run.checkpoint_minutes=60")
    until(lambda: (tmp_path / "epochs.csv").exists(), 240)
    process.signal(signal.SIGTERM)
    process.finish(75)
    until(lambda: not process_group(process), 10)
    before = batches_done(tmp_path)
    assert before > 0
    Run(recipe, tmp_path, "--dist.processes=2").finish()
    assert batches_done(tmp_path) == 30
