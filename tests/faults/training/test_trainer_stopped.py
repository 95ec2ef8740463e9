"""A run that is killed, stopped or damaged gives the result of one that was not, or an error."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
    stop_at_evaluation,
    training_script,
)

from data_tools.common.files import locked
from training.model import checkpoint

SAVE_EVERY_BATCH = "--run.checkpoint_minutes=0"


@pytest.mark.parametrize("after", [3, 5, 14])
def test_killed_run_continues_to_the_same_result(recipe: Path, finished_run: Path, tmp_path: Path, after: int) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH)
    process.wait_for_batches(after)
    process.kill()
    assert after <= batches_done(tmp_path) < BATCHES
    TrainingProcess(recipe, tmp_path).finish()
    assert_same_result(tmp_path, finished_run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
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


def test_ctrl_c_while_the_processes_load_torch_is_one_line(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, *training_script(recipe, tmp_path / "run", "--dist.processes=2")]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(loading := ranks_of(process)) == 2 and all(map(has_torch, loading)))
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        first, *others = process.stderr.read().splitlines()
    assert first.endswith("; loading PyTorch")
    assert others == ["stopped by SIGINT; nothing was saved"]
    assert process.returncode == 130


def has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_damaged_checkpoint_falls_back_to_the_one_before(recipe: Path, finished_run: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH)
    process.wait_for_batches(7)
    process.kill()
    # Killed between two renames, it leaves the newest as fresh.pt.
    newest = next(path for path in (tmp_path / checkpoint.LAST, tmp_path / "fresh.pt") if path.exists())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    assert "does not match its checksum" in TrainingProcess(recipe, tmp_path).finish()[1]
    assert_same_result(tmp_path, finished_run)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(betons: Path, tmp_path: Path) -> None:
    rates = [{"epochs": [0, 1], "from": 0.001, "to": 0.001}, {"epochs": [1, 4], "from": 1e30, "to": 1e30}]
    phase = {"epochs": [0, 4], "px": 64, "batch_per_gpu": 4, "data": 160, "lr": rates}
    diverging = write_recipe(tmp_path / "diverging.yaml", [phase], train={"ema": None}, data={"dir": str(betons)})
    status, _, err = attempt(diverging, tmp_path / "run", SAVE_EVERY_BATCH)
    assert status == 2
    assert "no finite loss or gradient for" in err
    assert "at 64 px, lr 1e+30; the last good checkpoint is " in err
    state = checkpoint.load(tmp_path / "run" / checkpoint.LAST)
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def test_killed_process_ends_the_other(recipe: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, SAVE_EVERY_BATCH, "--dist.processes=2")
    process.wait_for_batches(1)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    assert "failed first" in process.finish(1)[1]
    wait_for_end_of_session(process.pid)


def one_epoch_at(lr: float, betons: Path, path: Path) -> Path:
    rates = [{"epochs": [0, 1], "from": lr, "to": lr}]
    phase = {"epochs": [0, 1], "px": 64, "batch_per_gpu": 8, "data": 160, "lr": rates}
    return write_recipe(path, [phase], train={"ema": None}, data={"dir": str(betons)})


def test_run_that_ends_without_finite_weights_fails(betons: Path, tmp_path: Path) -> None:
    recipe = one_epoch_at(1e30, betons, tmp_path / "nan.yaml")
    status, _, err = attempt(recipe, tmp_path / "run")
    assert status == 2
    assert "last.pt not written: the weights are not finite" in err
    assert "remedy: continue from it, with --run.accept_changes, at a lower learning rate" in err
    assert_nothing_was_trained(tmp_path / "run")


def test_run_whose_every_step_is_skipped_fails(betons: Path, tmp_path: Path) -> None:
    recipe = one_epoch_at(0.01, betons, tmp_path / "overflows.yaml")
    status, _, err = attempt(recipe, tmp_path / "run", "--train.amp=fp16", "--train.loss_scale=1e30")
    assert status == 2
    assert "no finite loss or gradient for 5 steps in a row" in err
    assert_nothing_was_trained(tmp_path / "run")


def assert_nothing_was_trained(run_dir: Path) -> None:
    """The only checkpoint is the one of the run's start."""
    assert [path.name for path in run_dir.glob("*.pt")] == [checkpoint.LAST]
    assert checkpoint.load(run_dir / checkpoint.LAST)["progress"]["images_seen"] == 0


def test_stop_that_cannot_save_says_so_and_does_not_exit_75(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_last = checkpoint.save_last

    def full_but_at_the_start(run_dir: Path, state: dict[str, Any]) -> None:
        if state["progress"]["images_seen"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_last(run_dir, state)

    stop_at_evaluation(monkeypatch, 1)
    monkeypatch.setattr(checkpoint, "save_last", full_but_at_the_start)
    status, _, err = attempt(recipe, tmp_path)
    assert status == 128 + signal.SIGTERM
    assert "stopped at batch 5 of epoch 1; nothing was saved; the last good checkpoint is " in err
    assert "continues" not in err


def test_best_that_cannot_be_written_is_named_and_not_recorded(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def full(path: Path, state: dict[str, Any]) -> None:
        if path.name == checkpoint.BEST:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        stop_at_evaluation(patch, 3)
        status, _, err = attempt(recipe, tmp_path)
    assert status == 75
    assert "warning: best.pt not written: [Errno 28]" in err
    assert "last.pt not written" not in err
    assert checkpoint.load(tmp_path / checkpoint.LAST)["progress"]["best"] == []


def test_second_start_in_a_run_folder_is_told_who_holds_it(recipe: Path, tmp_path: Path) -> None:
    with locked(tmp_path, "a training"):
        status, _, err = attempt(recipe, tmp_path)
    assert status == 2
    assert f"a training is writing there, process {os.getpid()} on " in err


@pytest.mark.slow
def test_two_processes_stop_and_continue(recipe: Path, tmp_path: Path) -> None:
    process = TrainingProcess(recipe, tmp_path, "--dist.processes=2", "--run.checkpoint_minutes=60")
    wait_until(lambda: (tmp_path / "epochs.csv").exists(), 240)
    process.signal(signal.SIGTERM)
    process.finish(75)
    # A launcher that kills its processes leaves 30 s later; 2 s are usual here.
    assert time.time() - (tmp_path / checkpoint.LAST).stat().st_mtime < 15
    wait_for_end_of_session(process.pid)
    before = batches_done(tmp_path)
    assert before > 0
    TrainingProcess(recipe, tmp_path, "--dist.processes=2").finish()
    assert batches_done(tmp_path) == BATCHES
    whole = tmp_path / "whole"
    TrainingProcess(recipe, whole, "--dist.processes=2").finish()
    assert_same_result(tmp_path, whole)
