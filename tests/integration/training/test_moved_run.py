"""A run that goes on elsewhere: with other processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import TrainingProcess

from training.model import checkpoint
from training.runlog.epoch_table import read_epochs
from training.runlog.step_table import read_steps

IMAGES, BATCH = 40, 2


@pytest.mark.parametrize("parts", [(1, 2, 1), pytest.param((2, 1), marks=pytest.mark.slow)])
def test_epoch_goes_on_at_its_place_with_other_processes(betons: Path, tmp_path: Path, parts: tuple[int, ...]) -> None:
    phase = ONE_EPOCH[0] | {"batch_per_gpu": BATCH}
    recipe, run_dir = write_recipe(tmp_path / "one.yaml", [phase], data={"dir": str(betons)}), tmp_path / "run"
    global_batches: list[int] = []
    for number, processes in enumerate(parts, start=1):
        before, done = len(global_batches), sum(global_batches)
        options = f"--dist.processes={processes}", "--run.checkpoint_minutes=0", "--run.accept_changes"
        process = TrainingProcess(recipe, run_dir, *options)
        if number < len(parts):
            process.wait_for_batches(before + 2)
            process.signal(signal.SIGTERM)
        _, err = process.finish(75 if number < len(parts) else 0)
        progress = checkpoint.load(run_dir / "last.pt")["progress"]
        steps = len(read_steps(run_dir))
        global_batches += [processes * BATCH] * (steps - before)
        left_out = (IMAGES - done) % (processes * BATCH)
        assert (f"; {left_out} of its 40 images are left out" in err) == (left_out > 0), err
        assert progress["images_seen"] == sum(global_batches)
        assert (progress["batch"], progress["images"]) == (
            (steps, sum(global_batches)) if number < len(parts) else (0, 0)
        )
    assert IMAGES - BATCH * max(parts) < sum(global_batches) <= IMAGES
    # A linear ramp from 0.01 to 0.02 over the images of the epoch.
    places = [sum(global_batches[: step + 1]) / IMAGES for step in range(len(global_batches))]
    assert [step.lr for step in read_steps(run_dir)] == pytest.approx([0.01 + 0.01 * place for place in places])
    assert [row.lr for row in read_epochs(run_dir)] == [read_steps(run_dir)[-1].lr]
