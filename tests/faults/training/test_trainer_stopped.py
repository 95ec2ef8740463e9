"""A run that is killed, preempted or damaged on the way ends as an undisturbed one does, or says why not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.training_runs import RECIPE, Run, assert_same_end, batches_done, process_group, until, workers_of

from training.model import checkpoint


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
    whole = tmp_path / "whole"
    Run(recipe, whole, "--dist.processes=2").finish()
    assert_same_end(tmp_path, whole)
