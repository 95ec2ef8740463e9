"""The loop that equivalence.py compares with has the recipe's network and decay, by its own means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from ruamel.yaml import YAML

from benchmarks import plain_training
from training.config.run_config import from_argv
from training.model import resnet

RECIPE = ROOT / "benchmarks" / "equivalence.yaml"


def test_network_and_decayed_parameters_are_those_of_the_training() -> None:
    torch.manual_seed(3)
    theirs = plain_training.network("resnet18", 10)
    torch.manual_seed(3)
    ours = resnet.build("resnet18", 10, init_bn0=True)
    weights = dict(theirs.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in ours.named_parameters())

    def decay(model: torch.nn.Module, groups: list[dict[str, object]]) -> dict[str, object]:
        of = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
        return {name: of[parameter] for name, parameter in model.named_parameters()}

    expected = resnet.parameter_groups(ours, 0.01, decay_norm=False, decay_bias=True)
    assert decay(theirs, plain_training.groups(theirs, 0.01)) == decay(ours, expected)


@pytest.mark.parametrize("recipe", ["equivalence", "equivalence_rn50"])
def test_benchmark_recipes_are_such_as_the_plain_loop_can_do(recipe: str) -> None:
    plain_training.check(from_argv(["--config-file", str(ROOT / "benchmarks" / f"{recipe}.yaml")]))


def test_single_precision_is_not_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    monkeypatch.setattr(plain_training, "train", lambda *_: {"tf32": [backend.allow_tf32 for backend in backends]})
    plain_training.main([str(RECIPE), str(tmp_path), f"--out={tmp_path / 'scores.json'}"])
    assert json.loads((tmp_path / "scores.json").read_text()) == {"tf32": [False, False]}


@pytest.mark.parametrize("more", [("train", "mixup", 0.2), ("model", "blurpool", True), ("train", "ema", 0.5)])
def test_what_the_plain_loop_does_not_do_is_refused(tmp_path: Path, more: tuple[str, str, object]) -> None:
    section, key, value = more
    recipe = YAML(typ="safe", pure=True).load(RECIPE.read_text())
    recipe[section][key] = value
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(SystemExit, match="asks for more"):
        plain_training.check(from_argv(["--config-file", str(tmp_path / "recipe.yaml")]))
