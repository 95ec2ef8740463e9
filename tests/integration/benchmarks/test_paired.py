"""The arms of benchmarks/paired.py differ in what they are to differ in, and in nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import ROOT

from training.loader.loaders import TrainLoader


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With one epoch of batches of 4."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("paired")
    ramps = [{"epochs": [0, 1], "from": 0.1, "to": 0.0}]
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(module, "PHASE", module.PHASE | {"epochs": [0, 1], "batch_per_gpu": 4, "lr": ramps})
    return module


@pytest.fixture
def work(paired: ModuleType, sorted_tar: Path, tmp_path: Path) -> Path:
    paired.make_sets(sorted_tar, tmp_path)
    return tmp_path


def test_pil_cuts_the_boxes_of_the_loader_out_of_the_originals(paired: ModuleType, work: Path) -> None:
    with TrainLoader(work / "betons/train_160.beton", px=paired.PX, batch=4, min_scale=0.5, workers=1) as loader:
        ours, theirs = (pixels(loader, work)(3) for pixels in (paired.by_loader, paired.by_pil))
    assert len(ours) == len(theirs) == 5
    for (images, labels), (others, their_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, their_labels)
        assert others.dtype == torch.uint8 and others.shape == images.shape
        for one, other in zip(images.double(), others.double(), strict=True):
            error = (one - other).square().mean()
            assert 10 * torch.log10(255**2 / error) > 24
            assert (one.flip(2) - other).square().mean() > 4 * error  # neither is mirrored


def test_step_and_loop_begin_alike_and_stay_so_for_an_epoch(paired: ModuleType, work: Path) -> None:
    ours, step = (paired.train(arm, 1, work) for arm in ("ours", "step"))
    assert step["train_loss"] == pytest.approx(ours["train_loss"], abs=1e-3)


def test_every_arm_is_trained_once_and_compared_in_pairs(
    paired: ModuleType, sorted_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [f"--source={sorted_tar}", f"--results={tmp_path / 'results.jsonl'}", "--pairs=2", f"--work={tmp_path}"]
    assert paired.main([*command, "--arms=ours,pil"]) == 0
    assert paired.main(command) == 0
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 2 * len(paired.ARMS)
    table = capsys.readouterr().out
    for question in paired.QUESTIONS:
        assert f"| {question}: " in table


def test_interval_is_students(paired: ModuleType) -> None:
    """Differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) is 4.303."""
    results = [
        {"arm": arm, "seed": seed, "top1": top1, "val_loss": 1.0, "train_loss": 1.0}
        for arm, scores in (("ours", (51, 52, 53)), ("pil", (50, 50, 50)))
        for seed, top1 in enumerate(scores)
    ]
    half = 4.303 / 3**0.5
    assert f"| pixels: ours - pil | 3 | +2.00 | {2 - half:+.2f} to {2 + half:+.2f} | 1.00 |" in paired.report(results)
