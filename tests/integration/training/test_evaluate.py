"""Weights of a file validated by training.evaluate, in one process and in two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import ROOT
from helpers.betons import copy_beton
from helpers.training_runs import evaluated, run_main
from torchvision.models import ResNet50_Weights

from training import evaluate
from training.engine import evaluate as engine_evaluate
from training.loader.loaders import ValLoader
from training.model import checkpoint
from training.runlog.epoch_table import read_epochs


@pytest.fixture(scope="module")
def trained(finished_run: Path) -> Path:
    """A checkpoint with averaged weights."""
    return finished_run / "last.pt"


def in_two_processes(recipe: Path, weights: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.evaluate", str(weights), "--config-file", str(recipe)]
    return subprocess.run(
        [*command, "--dist.processes=2"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.slow
def test_own_checkpoint_has_the_scores_of_its_epoch_with_any_number_of_processes(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path
) -> None:
    copy_beton(betons / "val_full.beton", tmp_path)  # no other is read
    alone = evaluated(recipe, trained, f"--data.dir={tmp_path}", f"--run.dir={tmp_path / 'run'}")
    last = read_epochs(trained.parent)[-1]
    scores = f"top-1 {last.top1:.4f} %, top-5 {last.top5:.4f} % (12 images, 48 px rectangles of val_full)"
    assert alone == f"{trained}: {scores}\n"
    assert not (tmp_path / "run").exists()
    both = in_two_processes(recipe, trained)
    assert (both.returncode, both.stdout) == (0, alone), both.stderr
    assert "loading PyTorch\nnote: the averaged weights (ema) that" in both.stderr


@pytest.mark.parametrize("px", [64, 224])
@pytest.mark.parametrize("rectangular", [True, False])
def test_scores_of_torchvision_weights_agree_with_torchvision(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path, px: int, rectangular: bool
) -> None:
    """With its own network and the mean and std that it publishes for its weights."""
    network, published = torchvision.models.resnet18(num_classes=4), ResNet50_Weights.IMAGENET1K_V1.transforms()
    network.load_state_dict(checkpoint.load(trained)["model"])
    torch.save(network.eval().state_dict(), tmp_path / "theirs.pth")
    hits, rectangles = [], set()
    options = {"px": px, "batch": 4, "rectangular": rectangular, "workers": 1, "device": torch.device("cpu")}
    with ValLoader(betons / "val_full.beton", **options) as loader, torch.inference_mode():
        for images, labels in loader:
            normalised = torchvision.transforms.functional.normalize(images / 255, published.mean, published.std)
            hits += (network(normalised).argmax(1) == labels).tolist()
            rectangles.add(images.shape[2:])
    assert rectangular == (rectangles != {(px, px)})
    shape = f"--px={px}", f"--rectangular={str(rectangular).lower()}"
    scores = json.loads(evaluated(recipe, tmp_path / "theirs.pth", "--log.format=json", *shape))
    assert scores["top1"] == pytest.approx(100 * sum(hits) / 12)
    expected = {"event": "validation", "images": 12, "px": px, "set": "val_full", "rectangular": rectangular}
    assert expected.items() <= scores.items()


def test_scores_that_cannot_be_written_are_an_error(
    recipe: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert evaluate.main([str(trained), "--config-file", str(recipe)]) == 2
    assert "error: standard output: the scores could not be written" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_that_the_main_process_cannot_read_are_one_line_of_all(recipe: Path, tmp_path: Path) -> None:
    torch.save([1], tmp_path / "weights.pth")
    done = in_two_processes(recipe, tmp_path / "weights.pth")
    assert (done.returncode, done.stdout) == (2, "")
    start, error = done.stderr.splitlines()
    assert start.endswith("loading PyTorch")
    assert error.startswith(f"training.evaluate: error: WEIGHTS: {tmp_path / 'weights.pth'}: no state dict")


def test_stopped_validation_ends_without_scores(recipe: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_all = engine_evaluate.evaluate

    def stop(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_all(*args)

    monkeypatch.setattr(engine_evaluate, "evaluate", stop)
    status, out, err = run_main(evaluate.main, [str(trained), "--config-file", str(recipe)])
    assert (status, out) == (128 + signal.SIGTERM, "")
    assert "training.evaluate: stopped; there are no scores" in err
