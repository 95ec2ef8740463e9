"""Which checkpoints a run continues from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import attempt

from training.model import checkpoint, resnet
from training.trainer import Trainer

COMPLETE = "complete after 3 epochs"
SCALE = {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.dtype]:
    """Whose "auto" is the precision that `train.amp=auto` means."""
    means, amp_dtype = {"auto": torch.float32}, resnet.amp_dtype
    monkeypatch.setattr(resnet, "amp_dtype", lambda amp, device: means.get(amp) or amp_dtype(amp, device))
    return means


def run_with(finished_run: Path, to: Path, **changes: Any) -> Path:
    """A copy of a run, whose checkpoint has ``changes``; those of its options are added to them."""
    shutil.copytree(finished_run, to)
    saved = checkpoint.load(to / checkpoint.LAST)
    saved["options"] |= changes.pop("options", {})
    checkpoint.save(to / checkpoint.LAST, saved | changes)
    return to


@pytest.mark.parametrize(
    ("ran_as", "here", "continues"),
    [
        ("fp32", "fp32", True),
        ("fp32", "fp16", False),
        ("fp16", "bf16", False),
        ("bf16", "fp16", False),
        ("bf16", "fp32", False),
    ],
)
def test_auto_precision_continues_only_where_it_means_the_same(
    ran_as: str, here: str, continues: bool, finished_run: Path, recipe: Path, tmp_path: Path, card: dict[str, Any]
) -> None:
    scale = SCALE if ran_as == "fp16" else {}
    run_dir = run_with(finished_run, tmp_path / "run", options={"train.amp": ran_as}, scaler=scale)
    card["auto"] = resnet.AMP_DTYPES[here]
    status, out, err = attempt(recipe, run_dir, "--train.amp=auto")
    if continues:
        assert (status, COMPLETE in out) == (0, True), err
        return
    assert status == 2
    assert err.count("\n") <= 2
    assert f"train.amp is {here}, was {ran_as}" in err
    status, out, err = attempt(recipe, run_dir, f"--train.amp={ran_as}")
    assert (status, COMPLETE in out) == (0, True), err
    status, out, err = attempt(recipe, run_dir, "--train.amp=auto", "--run.accept_changes")
    assert (status, COMPLETE in out) == (0, True), err
    assert f"continues with a change: train.amp is {here}, was {ran_as}" in err


def test_checkpoint_of_a_newer_version_is_left_as_it_is(finished_run: Path, recipe: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    saved = checkpoint.load(run_dir / checkpoint.LAST)
    torch.save(saved | {"version": checkpoint.VERSION + 1}, run_dir / checkpoint.LAST)
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    status, out, err = attempt(recipe, run_dir)
    assert (status, out, err.count("error: ")) == (2, "", 1)
    assert f"last.pt: a checkpoint of version {checkpoint.VERSION + 1}, and this program reads" in err
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before


def test_checkpoint_without_momentum_is_continued(finished_run: Path, recipe: Path, tmp_path: Path) -> None:
    run_dir = run_with(finished_run, tmp_path / "run", optimizer={})
    status, out, err = attempt(recipe, run_dir)
    assert (status, COMPLETE in out) == (0, True), err


def test_momentum_goes_on_where_other_parameters_decay(
    finished_run: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    saved = checkpoint.load(run_dir / checkpoint.LAST)["optimizer"]
    found: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(Trainer, "run", lambda trainer: found.update(trainer.state.momenta()))
    changed = "--train.decay_norm=true", "--train.decay_bias=false", "--run.accept_changes"
    status, _, err = attempt(recipe, run_dir, *changed)
    assert (status, err.count("continues with a change")) == (0, 2), err
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) and saved[name].any() for name in saved)
