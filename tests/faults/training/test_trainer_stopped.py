"""A run that is killed, stopped or damaged gives the result of one that was not, or an error."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import wait_for_end_of_session, wait_until
from helpers.recipes import write_recipe
from helpers.training_runs import (
    BATCHES,
    TrainingProcess,
    assert_same_result,
    attempt,
    batches_done,
    ranks_of,
)

from training.model import checkpoint

SAVE_EVERY_BATCH = "--run.checkpoint_minutes=0"


@pytest.mark.parametrize("after", [3, 5, 14])
def test_killed_run_continues_to_the_same_result(recipe: Path, finished_run: Path, tmp_path: Path, after: int) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH)
    wait_until(lambda: batches_done(tmp_path) >= after)
    process.kill()
    assert after <= batches_done(tmp_path) < BATCHES
    TrainingProcess(recipe, tmp_path).finish()
    assert_same_result(tmp_path, finished_run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_saves_and_exits_75(recipe: Path, finished_run: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = TrainingProcess(recipe, tmp_path, "--run.checkpoint_minutes=60")
    wait_until(lambda: (tmp_path / "epochs.csv").exists())
    time.sleep(0.3)
    process.signal(number)
    assert "the same command continues" in process.finish(75)[1]
    stopped_at = batches_done(tmp_path)
    assert 0 < stopped_at < BATCHES
    # Where it stopped does not depend on how often it saves.
    TrainingProcess(recipe, tmp_path).finish()
    assert_same_result(tmp_path, finished_run)


def test_damaged_checkpoint_falls_back_to_the_one_before(recipe: Path, finished_run: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH)
    wait_until(lambda: batches_done(tmp_path) >= 7)
    process.kill()
    wait_until(lambda: (tmp_path / checkpoint.LAST).exists())
    last = tmp_path / checkpoint.LAST
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(bytes(content))
    assert "does not match its checksum" in TrainingProcess(recipe, tmp_path).finish()[1]
    assert_same_result(tmp_path, finished_run)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(betons: Path, tmp_path: Path) -> None:
    rates = [{"epochs": [0, 1], "from": 0.001, "to": 0.001}, {"epochs": [1, 4], "from": 1e30, "to": 1e30}]
    phase = {"epochs": [0, 4], "px": 64, "batch_per_gpu": 4, "data": 160, "lr": rates}
    diverging = write_recipe(tmp_path / "diverging.yaml", [phase], train={"ema": 0}, data={"dir": str(betons)})
    status, _, err = attempt(diverging, tmp_path / "run", SAVE_EVERY_BATCH)
    assert status == 2
    assert "no finite loss or gradient for" in err
    assert "at 64 px, lr 1e+30" in err
    state = checkpoint.load(tmp_path / "run" / checkpoint.LAST)
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def test_killed_process_ends_the_other(recipe: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH, "--dist.processes=2")
    wait_until(lambda: batches_done(tmp_path) > 0, 240)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    assert "failed first" in process.finish(1)[1]
    wait_for_end_of_session(process.pid)


@pytest.mark.slow
def test_two_processes_stop_and_continue(recipe: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, "--dist.processes=2", "--run.checkpoint_minutes=60")
    wait_until(lambda: (tmp_path / "epochs.csv").exists(), 240)
    process.signal(signal.SIGTERM)
    process.finish(75)
    wait_for_end_of_session(process.pid)
    before = batches_done(tmp_path)
    assert before > 0
    TrainingProcess(recipe, tmp_path, "--dist.processes=2").finish()
    assert batches_done(tmp_path) == BATCHES
    whole = tmp_path / "whole"
    TrainingProcess(recipe, whole, "--dist.processes=2").finish()
    assert_same_result(tmp_path, whole)
