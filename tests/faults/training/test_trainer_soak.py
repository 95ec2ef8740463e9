"""Long tests: kills at random moments, and hundreds of epochs without a leak."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from pathlib import Path

import pytest
from helpers.training_runs import BATCHES, TrainingProcess, assert_same_result, batches_done

import train_imagenet
from training.model import checkpoint

pytestmark = pytest.mark.slow
KILLS = 20


def test_twenty_kills_at_random_moments_do_not_change_the_result(
    recipe: Path, finished_run: Path, tmp_path: Path
) -> None:
    moments, kills, run_dir = random.Random(5), 0, tmp_path / "run"
    while kills < KILLS:
        process = TrainingProcess(recipe, run_dir, "--run.checkpoint_minutes=0")
        process.process.join(moments.uniform(0.5, 6.0))
        if process.process.exitcode is None:
            process.kill()
            kills += 1
            continue
        assert process.process.exitcode == 0, process.logs[1].read_text()
        assert_same_result(run_dir, finished_run)
        run_dir = tmp_path / f"run_{kills}"  # it got through: another one
    TrainingProcess(recipe, run_dir).finish()
    assert_same_result(run_dir, finished_run)
    print(
        f"{kills} kills, {kills} resumes, wrong results 0, losses 0, "
        f"the last run at {batches_done(run_dir)} of {BATCHES} batches"
    )


def resources_in_use() -> dict[str, int]:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "python_threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "shared_memory": len(os.listdir("/dev/shm")),  # noqa: PTH208
    }


def test_two_hundred_epochs_do_not_leak(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, int]] = []
    # Instead of 18 GB of checkpoints.
    monkeypatch.setattr(checkpoint, "save_last", lambda *_: seen.append(resources_in_use()))
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    phase = "{{'ep': {}, 'sz': {}, 'bs': 16, 'trndir': '{}', 'rect_val': {}}}"
    phases = [
        phase.format(e, 32 + 8 * (e // 10 % 2), "-sz/160" if e % 20 else "", bool(e // 10 % 2))
        for e in range(0, 200, 10)
    ]
    schedule = f"[{', '.join(phases)}, {{'ep': (0, 200), 'lr': (0.001, 0.0001)}}]"
    argv = ["--dist.device=cpu", f"--data.dir={betons}", "--model.arch=resnet18", f"--run.dir={tmp_path / 'run'}"]
    began = time.perf_counter()
    assert train_imagenet.main([*argv, f"--schedule.imagenet18={schedule}", "--run.checkpoint_minutes=60"]) == 0
    early, late = seen[60], seen[-1]
    assert len(seen) == 201  # one before the first epoch
    assert late["threads"] <= early["threads"]
    assert late["files"] <= early["files"]
    assert late["shared_memory"] <= early["shared_memory"]
    assert late["resident_kib"] - early["resident_kib"] < 50_000
    print(f"200 epochs in {time.perf_counter() - began:.0f} s: after 61 {early}, after 200 {late}")
