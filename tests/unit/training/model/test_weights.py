"""Weights out of what other programs save: found in it, or refused in one line that says what to do."""

import argparse
import collections
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from data_tools.common.options import OptionError
from training.model import resnet, weights

CLASSES = ("n01", "n02", "n03")
ARGUMENTS = argparse.Namespace(lr=0.1, output_dir=Path("runs"))


@cache
def network(blurpool: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return resnet.build("resnet18", len(CLASSES), init_bn0=False, blurpool=blurpool)


def named(start: str, blurpool: bool = False) -> dict[str, torch.Tensor]:
    return OrderedDict((f"{start}{name}", tensor) for name, tensor in network(blurpool).state_dict().items())


def other(start: str) -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in named(start).items()}


class Pruned(list):  # type: ignore[type-arg]
    """An object that torch's reader does not take."""


def ffcv_names() -> dict[str, torch.Tensor]:
    """ffcv-imagenet's BlurPoolConv2d holds its filter as a buffer."""
    tensors = named("module.", blurpool=True)
    blurred = [name.removesuffix("conv.weight") for name in tensors if ".conv.weight" in name]
    assert blurred
    return tensors | {f"{name}blur_filter": torch.ones(1, 1, 3, 3) for name in blurred}


FILES: dict[str, Callable[[], Any]] = {
    "torchvision, timm": lambda: named(""),
    "DataParallel": lambda: named("module."),
    "compiled, DataParallel": lambda: named("module._orig_mod."),
    "imagenet18": lambda: {"epoch": 3, "arch": "resnet18", "state_dict": named("module."), "optimizer": {"state": {}}},
    "torchvision's script": lambda: {"model": named(""), "args": ARGUMENTS, "model_ema": other("module.")},
    "timm's script": lambda: {"version": 2, "state_dict": named(""), "args": ARGUMENTS, "state_dict_ema": other("")},
    "PyTorch's tutorial": lambda: {"epoch": 3, "model_state_dict": named(""), "loss": torch.tensor(0.5)},
    "only averaged": lambda: {"ema": named("module.") | {"n_averaged": torch.tensor(3)}},
    "Lightning": lambda: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": named("model."),
        "hyper_parameters": collections.defaultdict(dict, {"a": {"b": Path("x")}}),
        "callbacks": {"ModelCheckpoint": {"dirpath": Path("x"), "best": torch.ones(1)}},
    },
}


@pytest.mark.parametrize("program", FILES)
def test_weights_in_files_of_other_programs_are_found(program: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(FILES[program](), path)
    found = weights.read(path)
    fresh = resnet.build("resnet18", len(CLASSES), init_bn0=True)
    weights.load_into(fresh, found, CLASSES)
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in network().state_dict().items())
    averaged = {"torchvision's script": "model_ema", "timm's script": "state_dict_ema"}
    assert found.averaged == averaged.get(program, "")


def test_weights_of_ffcv_imagenet_with_blurpool_are_found(tmp_path: Path) -> None:
    path = tmp_path / "final_weights.pt"
    torch.save(ffcv_names(), path)
    fresh = resnet.build("resnet18", len(CLASSES), init_bn0=True, blurpool=True)
    weights.load_into(fresh, weights.read(path), CLASSES)
    assert torch.equal(fresh.layer2[0].conv1.conv.weight, network(True).layer2[0].conv1.conv.weight)
    with pytest.raises(OptionError, match=r"give --model\.arch=resnet18 --model\.blurpool=true"):
        weights.load_into(resnet.build("resnet18", len(CLASSES), init_bn0=True), weights.read(path), CLASSES)


def test_state_dict_of_torch_before_1_6_is_read(tmp_path: Path) -> None:
    """torchvision's oldest files: another container, and BatchNorms without a count of batches."""
    old = {name: tensor for name, tensor in named("").items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    fresh = resnet.build("resnet18", len(CLASSES), init_bn0=True)
    weights.load_into(fresh, weights.read(tmp_path / "old.pth"), CLASSES)
    assert torch.equal(fresh.layer4[1].bn2.running_var, network().layer4[1].bn2.running_var)


@pytest.mark.parametrize("names", [None, CLASSES])
def test_weights_without_class_names_for_classes_in_another_order_than_imagenets_give_a_line(
    names: tuple[str, ...] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = weights.Weights(source=tmp_path / "theirs.pth", tensors=named(""), classes=names)
    weights.load_into(resnet.build("resnet18", len(CLASSES), init_bn0=True), given, CLASSES)
    weights.begin_from(resnet.build("resnet18", len(CLASSES), init_bn0=True), given, CLASSES)
    weights.begin_from(resnet.build("resnet18", 5, init_bn0=True), given, ("a", "b", "c", "d", "e"))  # a new fc layer
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (2 if names is None else 0)
    for line in lines:
        assert line.startswith(f"note: {tmp_path / 'theirs.pth'} holds no class names, ")
        assert line.endswith("0 is n01, 2 is n03")


def test_weights_without_class_names_for_imagenets_classes_give_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tensors = torchvision.models.resnet18().state_dict()
    given = weights.Weights(source=Path("theirs.pth"), tensors=tensors)
    wnids = tuple(f"n{at:08d}" for at in range(1000))
    weights.load_into(resnet.build("resnet18", 1000, init_bn0=True), given, wnids)
    assert not caplog.records
    weights.load_into(resnet.build("resnet18", 1000, init_bn0=True), given, tuple(sorted(map(str, range(1000)))))
    assert len(caplog.records) == 1


def test_weights_of_another_network_or_other_classes_say_what_to_give(tmp_path: Path) -> None:
    def refused(tensors: dict[str, torch.Tensor], classes: tuple[str, ...] | None = None) -> str:
        given = weights.Weights(source=tmp_path, tensors=tensors, classes=classes)
        with pytest.raises(OptionError) as error:
            weights.load_into(network(), given, CLASSES)
        return str(error.value)

    assert "1000 outputs, but the betons have 3 classes" in refused(torchvision.models.resnet18().state_dict())
    larger = torchvision.models.resnet34(num_classes=3).state_dict()
    assert "give --model.arch=resnet34 --model.blurpool=false" in refused(larger)
    assert "for 3 classes other than the 3 here" in refused(named(""), ("a", "b", "c"))
    assert "(differing: fc.weight, fc.bias)" in refused({k: v for k, v in named("").items() if k[:2] != "fc"})


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def raw_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def raw_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def named_without(name: str, other: torch.Tensor) -> Callable[[], dict[str, torch.Tensor]]:
    """The weights of the network with ``other`` in place of one of them."""
    return lambda: {**named(""), name: other}


@pytest.mark.parametrize(
    ("content", "save", "words"),
    [
        (lambda: {"state_dict": named(""), "args": ARGUMENTS}, legacy, ["argparse.Namespace", "model.state_dict()"]),
        (
            lambda: {"state_dict": named(""), "args": Pruned([1])},
            torch.save,
            ["holds a Python object", "model.state_dict()"],
        ),
        (network, torch.save, ["no state dict of tensors", "model.state_dict()"]),
        (lambda: {"epoch": 3, "lr": 0.1, "step": 5, "best": 7}, torch.save, ["(its keys: epoch, lr, step, …)"]),
        (lambda: [1, 2], torch.save, ["no state dict of tensors (its keys: none); save"]),
        (lambda: {"a": 1}, raw_pickle, ["not written by torch.save, or damaged; copy or download it again"]),
        (lambda: b"", raw_bytes, ["not a readable checkpoint: empty; copy or download it again"]),
        (lambda: b"hello", raw_bytes, ["not written by torch.save, or damaged; copy or download it again"]),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid", raw_bytes, ["Git LFS", "`git lfs pull`"]),
        (named_without("fc.bias", torch.tensor(1.0)), torch.save, ["of this network (differing: fc.bias)"]),
        (
            named_without("fc.bias", torch.zeros(3).to_sparse()),
            torch.save,
            ["fc.bias is float32, sparse_coo, on cpu; give dense"],
        ),
        (named_without("fc.bias", torch.zeros(3, device="meta")), torch.save, ["strided, on meta; give dense"]),
        (
            named_without("fc.bias", torch.zeros(3, dtype=torch.int8)),
            torch.save,
            ["fc.bias is int8, strided, on cpu; give dense"],
        ),
        (named_without("fc.bias", torch.tensor([1e5, 0, 0]).half()), torch.save, ["fc.bias holds nan or infinity; "]),
        (named_without("fc.weight", torch.zeros(512, 3)), torch.save, ["of this network (differing: fc.weight)"]),
        (lambda: {name: each.numpy() for name, each in named("").items()}, torch.save, ["model.state_dict()"]),
        (
            lambda: named("student.") | named("teacher."),
            torch.save,
            ["(differing: student.conv1.weight, student.bn1.w"],
        ),
        (
            lambda: {
                k.replace("conv1.", "conv1.0.", 1) if k.startswith("conv1") else k: v for k, v in named("").items()
            },
            torch.save,
            ["not the weights of this network (differing: conv1.0.weight, conv1.weight)"],
        ),
    ],
)
def test_other_files_are_refused_in_one_line_with_what_to_do(
    content: Callable[[], Any], save: Callable[[Any, Path], None], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    save(content(), path)
    with pytest.raises(OptionError) as refused:
        weights.load_into(network(), weights.read(path), CLASSES)
    message = str(refused.value)
    assert all(word in message for word in words), message
    assert not [word for word in ("\n", "\x1b", "x1b", "weights_only", "add_safe_globals") if word in message], message


def test_file_that_is_cut_short_is_said_to_be(tmp_path: Path) -> None:
    torch.save(named(""), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for size in (len(content) - 10, len(content) // 2, 100):
        (tmp_path / "cut.pth").write_bytes(content[:size])
        with pytest.raises(OptionError, match="not a readable checkpoint: cut short; copy or download it again"):
            weights.read(tmp_path / "cut.pth")


def test_classes_and_averaged_weights_of_an_own_checkpoint_are_found(tmp_path: Path) -> None:
    own = {"classes": list(CLASSES), "arch": "resnet18", "options": {}, "model": named("")}
    for ema, entry in (({}, ""), (named("module."), "ema")):
        torch.save(own | {"ema": ema, "version": 2}, tmp_path / "last.pt")  # the weights of any version
        found = weights.read(tmp_path / "last.pt")
        assert (found.classes, found.averaged) == (CLASSES, entry)


def test_classes_of_another_program_are_not_ours(tmp_path: Path) -> None:
    for more in ({"classes": 3, "arch": "a", "options": {}}, {"classes": ["a"]}):
        torch.save({"model": named(""), "version": "8.0.1", **more}, tmp_path / "other.pth")
        assert weights.read(tmp_path / "other.pth").classes is None


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('was_run', 'w')",)


def test_objects_beside_weights_are_neither_imported_nor_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": named(""), "args": Hostile()}, "hostile.pth")
    assert weights.read(Path("hostile.pth")).tensors.keys() == named("").keys()
    assert not Path("was_run").exists()


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"classes": "3"}, None),
        ({"classes": '["a", "b", "c"]', "arch": "", "options": ""}, ("a", "b", "c")),
        ({"classes": "a b c", "arch": "", "options": ""}, None),
    ],
)
def test_classes_of_safetensors_are_known_if_exported_here(
    metadata: dict[str, str], found: tuple[str, ...] | None, tmp_path: Path
) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(dict(named("")), tmp_path / "any.safetensors", metadata=metadata)
    assert weights.read(tmp_path / "any.safetensors").classes == found


def test_safetensors_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch").save
    (tmp_path / "cut.safetensors").write_bytes(save(dict(named("")))[:-100])
    with pytest.raises(OptionError, match="not readable safetensors"):
        weights.read(tmp_path / "cut.safetensors")
