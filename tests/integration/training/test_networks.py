"""Networks of other families, from a run that is stopped and continued to evaluation and export."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import assert_same_result, attempt, evaluated, run_main, train

from training import export
from training.engine.step import TrainStep
from training.runlog.epoch_table import read_epochs

# With dropout and stochastic depth, BatchNorm and LayerNorm, attention and buffers of integers among them.
FAMILIES = [
    pytest.param("efficientnet_b0", 32),
    pytest.param("regnet_y_400mf", 32, marks=pytest.mark.slow),
    pytest.param("mobilenet_v3_small", 32, marks=pytest.mark.slow),
    pytest.param("resnext50_32x4d", 32, marks=pytest.mark.slow),
    pytest.param("densenet121", 32, marks=pytest.mark.slow),
    pytest.param("convnext_tiny", 32, marks=pytest.mark.slow),
    pytest.param("swin_t", 32, marks=pytest.mark.slow),
    pytest.param("vit_b_32", 224, marks=pytest.mark.slow),
]


def recipe_of(folder: Path, betons: Path, arch: str, px: int) -> Path:
    """Five steps, of two parts each."""
    phase = ONE_EPOCH[0] | {"px": px, "batch_per_gpu": 4}
    return write_recipe(
        folder / "one.yaml", [phase], data={"dir": str(betons)}, model={"arch": arch}, dist={"emulate_gpus": 2}
    )


def stop_in_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    step, done = TrainStep.__call__, []

    def stopped(self: TrainStep, *args: Any) -> torch.Tensor:
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(TrainStep, "__call__", stopped)


@pytest.mark.parametrize(("arch", "px"), FAMILIES)
def test_run_of_any_family_is_continued_to_the_same_bits_evaluated_and_exported(
    arch: str, px: int, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole, stopped = recipe_of(tmp_path, betons, arch, px), tmp_path / "whole", tmp_path / "stopped"
    train(recipe, whole)
    with monkeypatch.context() as patch:
        stop_in_third_step(patch)
        status, _, err = attempt(recipe, stopped)
    assert (status, "stopped at batch 3 of epoch 1" in err) == (75, True), err
    torch.manual_seed(5)  # as another process would have it
    train(recipe, stopped)
    assert_same_result(stopped, whole)

    (row,) = read_epochs(whole)
    assert row.tflops > 0
    assert f"top-1 {row.top1:.4f} %, top-5 {row.top5:.4f} %" in evaluated(recipe, whole / "last.pt")
    status, printed, err = run_main(export.main, [str(whole / "last.pt"), "--to", "torchvision"])
    assert (status, f"torchvision.models.{arch}(num_classes=4) loads it" in printed) == (0, True), err
    theirs = getattr(torchvision.models, arch)(num_classes=4)
    theirs.load_state_dict(torch.load(whole / "last.pth", weights_only=True), strict=True)


def test_size_that_the_network_does_not_take_is_one_line_before_anything_starts(recipe: Path, tmp_path: Path) -> None:
    status, out, err = attempt(recipe, tmp_path / "run", "--model.arch=vit_b_16", "--dist.device=auto")
    assert (status, out) == (2, ""), err
    said = "model.arch: vit_b_16 does not take 32 x 32 px (Wrong image height!"
    assert err.splitlines()[-1].startswith(f"train_imagenet.py: error: {said}"), err
    assert not (tmp_path / "run/last.pt").exists()
