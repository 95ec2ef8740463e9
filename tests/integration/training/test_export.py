"""Weights exported to torchvision, safetensors and ONNX, checked with those packages, and weights read from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.betons import copy_beton
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import attempt, run_main, train
from torchvision.models import ResNet50_Weights

from data_tools.beton.manifest import read_manifest
from training import export
from training.loader.loaders import ValLoader
from training.model import checkpoint


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


def evaluated(recipe: Path, weights: Path, *more: str) -> tuple[int, str, str]:
    return attempt(recipe, weights.parent, "--run.eval_only=true", f"--run.checkpoint={weights}", *more)


def test_torchvision_loads_the_exported_weights(trained: Path, tmp_path: Path) -> None:
    network = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision"))
    state = checkpoint.load(trained)
    assert all(torch.equal(tensor, state["model"][name]) for name, tensor in network.state_dict().items())


def test_ema_option_exports_the_averaged_weights(trained: Path, tmp_path: Path) -> None:
    network = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision", "--ema", "true"))
    state = checkpoint.load(trained)
    assert torch.equal(network.conv1.weight, state["ema"]["module.conv1.weight"])
    assert not torch.equal(network.conv1.weight, state["model"]["conv1.weight"])


@pytest.mark.parametrize("px", [64, 224])
@pytest.mark.parametrize("rectangular", [True, False])
def test_evaluation_of_torchvision_weights_agrees_with_torchvision(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path, px: int, rectangular: bool
) -> None:
    """With its own network and the mean and std that it publishes for its weights."""
    path = exported(trained, tmp_path / "out.pth", "torchvision")
    network, published = torchvision_network(path), ResNet50_Weights.IMAGENET1K_V1.transforms()
    hits, rectangles = [], set()
    options = {"px": px, "batch": 4, "rectangular": rectangular, "workers": 1, "device": torch.device("cpu")}
    with ValLoader(betons / "val_full.beton", **options) as loader, torch.inference_mode():
        for images, labels in loader:
            normalised = torchvision.transforms.functional.normalize(images / 255, published.mean, published.std)
            hits += (network(normalised).argmax(1) == labels).tolist()
            rectangles.add(images.shape[2:])
    assert rectangular == (rectangles != {(px, px)})
    chosen = f"--run.eval_px={px}", f"--run.eval_rectangular={str(rectangular).lower()}"
    status, printed, err = evaluated(recipe, path, *chosen)
    assert status == 0, err
    kind = "rectangles" if rectangular else "squares"
    assert f"top-1 {100 * sum(hits) / 12:.4f} %" in printed
    assert f"(12 images, {px} px {kind} of val_full)" in printed


def test_evaluation_needs_only_the_beton_that_it_reads(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path
) -> None:
    copy_beton(betons / "val_full.beton", tmp_path)
    status, printed, err = evaluated(recipe, trained, f"--data.dir={tmp_path}")
    assert status == 0, err
    assert "48 px rectangles of val_full" in printed


def test_safetensors_hold_the_recipe_and_evaluate_the_same(
    trained: Path, recipe: Path, betons: Path, tmp_path: Path
) -> None:
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
    scores = [evaluated(recipe, weights)[1].partition(": ")[2] for weights in (trained, path)]
    assert scores[0] == scores[1] != ""
    assert f"top-1 {about['scores']['top1']:.4f} %, top-5 {about['scores']['top5']:.4f} %" in scores[0]


def test_onnx_gives_the_same_logits_at_any_size(trained: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    path = exported(trained, tmp_path / "out.onnx", "onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision"))
    for shape in ((1, 3, 96, 96), (5, 3, 80, 136), (2, 3, 100, 75)):
        images = torch.randn(shape)
        (got,) = session.run(None, {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(got), network(images), rtol=1e-3, atol=1e-4)
    proto = onnx.load(path)
    assert "less the mean [0.485, 0.456, 0.406], divided by the std [0.229, 0.224, 0.225]" in proto.doc_string
    assert "classes" in {each.key for each in proto.metadata_props}


def test_onnx_with_other_logits_is_not_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class InexactSession(onnxruntime.InferenceSession):
        """Off by 1 % for one of the shapes."""

        def run(self, names: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            (logits,) = super().run(names, inputs)
            return [logits * 1.01 if inputs["images"].shape[0] == 3 else logits]

    monkeypatch.setattr(onnxruntime, "InferenceSession", InexactSession)
    status, _, err = run_main(export.main, [str(trained), "--to", "onnx", "--out", str(tmp_path / "out.onnx")])
    assert status == 2
    assert "onnxruntime's logits are 0.01 of the largest off the model's" in err
    assert not list(tmp_path.iterdir())


def test_blurpool_cannot_be_exported_to_torchvision_only(
    blurpool_checkpoint: Path, trained: Path, recipe: Path, tmp_path: Path
) -> None:
    status, _, err = run_main(export.main, [str(blurpool_checkpoint), "--to", "torchvision"])
    assert status == 2
    assert "has no BlurPool" in err and err.count("\n") == 1
    assert not list(blurpool_checkpoint.parent.glob("*.pth*"))
    path = exported(blurpool_checkpoint, tmp_path / "out.safetensors", "safetensors")
    exported(blurpool_checkpoint, tmp_path / "out.onnx", "onnx")
    assert evaluated(recipe, path, "--model.blurpool=true")[0] == 0
    status, _, err = evaluated(recipe, path)
    assert (status, "--model.arch=resnet18 --model.blurpool=true" in err) == (2, True)


@pytest.mark.parametrize(("to", "package"), [("safetensors", "safetensors"), ("onnx", "onnxruntime")])
def test_missing_package_is_a_one_line_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, _, err = run_main(export.main, [str(trained), "--to", to, "--out", str(tmp_path / "out")])
    assert status == 2
    assert "is missing; make env EXTRAS=export, or elsewhere pip install -e '.[export]'" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unsuitable_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    status, _, err = run_main(export.main, [str(tmp_path / "none.pt"), "--to", "onnx"])
    assert (status, "no checkpoint here" in err) == (2, True)
    state = checkpoint.load(trained)
    for change, reason in (
        ({"ema": {}}, "holds no averaged weights"),
        ({"arch": "get_model"}, "'get_model', which is not one of resnet18"),
    ):
        checkpoint.save(tmp_path / "other.pt", {k: v for k, v in (state | change).items() if k != "version"})
        status, _, err = run_main(export.main, [str(tmp_path / "other.pt"), "--to", "torchvision", "--ema"])
        assert (status, reason in err) == (2, True)


def refused(recipe: Path, path: Path, *more: str) -> str:
    status, _, err = evaluated(recipe, path, *more)
    assert status == 2
    assert err.count("\n") == 1 and "run.checkpoint: " in err
    return err


def test_weights_that_do_not_fit_the_model_are_refused(recipe: Path, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18(num_classes=1000).state_dict(), path)
    assert "1000 outputs, but the betons have 4 classes" in refused(recipe, path)
    torch.save(torchvision.models.resnet34(num_classes=4).state_dict(), path)
    assert "give --model.arch=resnet34 --model.blurpool=false" in refused(recipe, path)
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    assert "not the weights of a ResNet of torchvision (without bn1.bias)" in refused(recipe, path)
    torch.save({"state_dict": {}}, path)
    assert "neither a checkpoint of this program nor a state dict" in refused(recipe, path)
    state = {key: value for key, value in checkpoint.load(trained).items() if key != "version"}
    checkpoint.save(path, state | {"classes": ["a", "b", "c", "d"]})
    assert "for 4 classes other than the 4 here" in refused(recipe, path)
    whole = exported(trained, tmp_path / "out.safetensors", "safetensors")
    whole.write_bytes(whole.read_bytes()[:-100])
    assert "not readable safetensors" in refused(recipe, whole)


def test_state_dict_of_torch_before_1_6_is_evaluated(trained: Path, recipe: Path, tmp_path: Path) -> None:
    """torchvision's oldest files: another container, and BatchNorms without a count of batches."""
    tensors = torchvision_network(exported(trained, tmp_path / "out.pth", "torchvision")).state_dict()
    old = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    scores = [evaluated(recipe, tmp_path / name)[1].partition(": ")[2] for name in ("out.pth", "old.pth")]
    assert scores[0] == scores[1] != ""


@pytest.mark.parametrize("option", ["eval_px=224", "eval_rectangular=true"])
def test_evaluation_options_are_refused_in_training(recipe: Path, tmp_path: Path, option: str) -> None:
    status, _, err = attempt(recipe, tmp_path, f"--run.{option}")
    assert status == 2
    assert f"run.{option.partition('=')[0]}: only for --run.eval_only=true" in err
