"""Weights exported to torchvision and safetensors, read by those packages and by this one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import run_main, train
from torchvision.models import ResNet50_Weights

from data_tools import describe
from data_tools.beton.manifest import read_manifest
from data_tools.sample import __main__ as sample
from training import export, plan, preview
from training.model import checkpoint, resnet, weights


@pytest.fixture(scope="module")
def trained(finished_run: Path) -> Path:
    """A checkpoint with averaged weights."""
    return finished_run / "last.pt"


@pytest.fixture(scope="module")
def blurpool_checkpoint(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blurpool")
    train(write_recipe(folder / "one.yaml", ONE_EPOCH, data={"dir": str(betons)}), folder, "--model.blurpool=true")
    return folder / "last.pt"


def exported(checkpoint_path: Path, out: Path, to: str, *more: str) -> Path:
    status, printed, err = run_main(export.main, [str(checkpoint_path), "--to", to, "--out", str(out), *more])
    assert status == 0, err
    assert str(out) in printed
    return out


def torchvision_network(path: Path, classes: int = 4) -> torch.nn.Module:
    """torchvision's own network with the weights of an exported state dict."""
    network = torchvision.models.resnet18(num_classes=classes)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return network.eval()


def test_torchvision_loads_the_exported_weights(trained: Path, tmp_path: Path) -> None:
    network = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision"))
    state = checkpoint.load(trained)
    assert all(torch.equal(tensor, state["model"][name]) for name, tensor in network.state_dict().items())


def test_ema_option_exports_the_averaged_weights(trained: Path, tmp_path: Path) -> None:
    network = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision", "--ema", "true"))
    state = checkpoint.load(trained)
    assert torch.equal(network.conv1.weight, state["ema"]["module.conv1.weight"])
    assert not torch.equal(network.conv1.weight, state["model"]["conv1.weight"])


def test_safetensors_hold_the_recipe_and_the_same_weights(trained: Path, betons: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = exported(trained, tmp_path / "out.safetensors", "safetensors")
    with safe_open(path, "pt") as file:
        about = {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}
    assert about["arch"] == "resnet18"
    assert about["classes"] == list(read_manifest(betons / "val_160.beton").classes)
    assert about["config"]["train"]["ema"] == 0.5
    assert about["config"]["schedule"]["phases"][0]["px"] == 32
    assert about["scores"]["epoch"] == 3
    assert {"top1", "top5", "ema_top1", "ema_top5"} <= about["scores"].keys()
    published = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert (about["input"]["mean"], about["input"]["std"]) == (published.mean, published.std)
    ours, theirs = weights.read(trained), weights.read(path)
    assert ours.classes == theirs.classes == tuple(about["classes"])
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


def test_blurpool_cannot_be_exported_to_torchvision_only(blurpool_checkpoint: Path, tmp_path: Path) -> None:
    status, _, err = run_main(export.main, [str(blurpool_checkpoint), "--to", "torchvision"])
    assert status == 2
    assert "has no BlurPool" in err and err.count("\n") == 1
    assert not list(blurpool_checkpoint.parent.glob("*.pth*"))
    path = exported(blurpool_checkpoint, tmp_path / "out.safetensors", "safetensors")
    given = weights.read(path)
    weights.load_into(resnet.build("resnet18", 4, init_bn0=True, blurpool=True), given, given.classes or ())


def test_missing_package_is_a_one_line_error(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    status, _, err = run_main(export.main, [str(trained), "--to", "safetensors", "--out", str(tmp_path / "out")])
    assert status == 2
    assert "is missing; make env EXTRAS=export, or pip install safetensors" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_tool_writes_over_its_input_or_a_checkpoint(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path
) -> None:
    for name in ("last.pt", "best.pt", "renamed.pth"):
        shutil.copy(trained, tmp_path / name)
    beton, options = shutil.copy(betons / "val_160.beton", tmp_path), shutil.copy(recipe, tmp_path)
    (tmp_path / "link.pth").symlink_to("last.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    last, to = str(tmp_path / "last.pt"), ("--to", "torchvision")
    for main, arguments in (
        *((export.main, [last, *to, "--out", str(tmp_path / name)]) for name in ("last.pt", "best.pt", "link.pth")),
        (export.main, [str(tmp_path / "renamed.pth"), *to]),
        (plan.main, ["--config-file", str(recipe), "--csv", last]),
        (plan.main, ["--config-file", str(options), "--csv", str(options)]),
        (preview.main, ["--config-file", str(recipe), "--out", last]),
        (describe.main, [str(betons / "val_160.beton"), "--sheet", last]),
        (describe.main, [str(beton), "--sheet", str(beton)]),
        (sample.main, [last]),
    ):
        status, _, err = run_main(main, arguments)
        assert (status, err.count("error: ")) == (2, 1), arguments
        assert "it is not replaced; give another name" in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    for out in (tmp_path / "out.pth", tmp_path / "out.pth", Path("/dev/null")):  # its own output is
        exported(trained, out, "torchvision")


def test_unsuitable_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    status, _, err = run_main(export.main, [str(tmp_path / "none.pt"), "--to", "torchvision"])
    assert (status, "no checkpoint here" in err) == (2, True)
    for to, suffix in (("torchvision", ".safetensors"), ("safetensors", ".pth")):
        status, _, err = run_main(export.main, [str(trained), "--to", to, "--out", str(tmp_path / f"out{suffix}")])
        assert (status, f"error: --out: {tmp_path / 'out'}{suffix} would be a " in err) == (2, True)
    state = checkpoint.load(trained)
    for change, reason in (
        ({"ema": {}}, "holds no averaged weights"),
        ({"arch": "get_model"}, "'get_model' is not a classification network of torchvision"),
    ):
        checkpoint.save(tmp_path / "other.pt", {k: v for k, v in (state | change).items() if k != "version"})
        status, _, err = run_main(export.main, [str(tmp_path / "other.pt"), "--to", "torchvision", "--ema"])
        assert (status, reason in err) == (2, True)
