"""A run that begins with the weights of another network's training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import attempt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.model import checkpoint


def test_run_begins_with_given_weights_and_goes_on_from_its_own(betons: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "theirs.pth")
    phase = ONE_EPOCH[0] | {"lr": [{"epochs": [0, 1], "from": 0.0, "to": 0.0}], "val_resize": 40}
    phase["momentum"] = [{"epochs": [0, 1], "from": 0.96, "to": 0.9, "shape": "cosine"}]
    recipe = write_recipe(tmp_path / "one.yaml", [phase], data={"dir": str(betons)})
    start = f"--run.init_from={tmp_path / 'theirs.pth'}"
    options = start, "--train.loss=bce", "--train.clip_norm=1", "--train.decay_decoupled=1", "--train.weight_decay=0"
    status, _, err = attempt(recipe, tmp_path / "run", *options)
    assert status == 0, err
    assert f"starting from the weights of {tmp_path / 'theirs.pth'}, but with a new last layer for 4 classes" in err
    saved, theirs = checkpoint.load(tmp_path / "run/last.pt"), checkpoint.read(tmp_path / "theirs.pth")
    assert torch.equal(saved["model"]["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])  # at a rate of 0
    assert saved["config"]["run"]["init_from"] == str(tmp_path / "theirs.pth")
    momenta = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("sizes/momentum")
    assert [each.value for each in momenta] == pytest.approx([0.9])
    (tmp_path / "theirs.pth").unlink()
    status, _, err = attempt(recipe, tmp_path / "run", *options)
    assert (status, "begins with" in err) == (0, False), err
