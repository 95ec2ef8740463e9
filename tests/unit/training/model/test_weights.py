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
from torch import nn

from data_tools.common.options import OptionError
from training.model import checkpoint, resnet, weights

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
    "compiled": lambda: named("_orig_mod."),
    "compiled, DataParallel": lambda: named("module._orig_mod."),
    "compiled by block": lambda: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in named("").items()},
    "imagenet18": lambda: {"epoch": 3, "arch": "resnet18", "state_dict": named("module."), "optimizer": {"state": {}}},
    "torchvision's script": lambda: {"model": named(""), "args": ARGUMENTS, "model_ema": other("module.")},
    "timm's script": lambda: {"version": 2, "state_dict": named(""), "args": ARGUMENTS, "state_dict_ema": other("")},
    "only averaged": lambda: {"model_ema": named("module.") | {"n_averaged": torch.tensor(3)}},
    "Lightning": lambda: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": named("model.") | {"criterion.weight": torch.ones(3)},
        "callbacks": {"ModelCheckpoint": {"dirpath": Path("x"), "best": torch.ones(1)}},
    },
    "a version and a number of classes": lambda: {"version": 1, "classes": 3, "model": named("")},
    "a version and names of classes": lambda: {"version": 1, "classes": ["a", "b", "c"], "state_dict": named("")},
    "composer": lambda: {"state": {"model": named("module."), "timestamp": ARGUMENTS}, "rng": [ARGUMENTS]},
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
        (lambda: {"state_dict": named(""), "args": Pruned([1])}, torch.save, ["Pruned", "model.state_dict()"]),
        (network, torch.save, ["nor a state dict of tensors", "model.state_dict()"]),
        (lambda: {"epoch": 3}, torch.save, ["nor a state dict of tensors", "model.state_dict()"]),
        (lambda: [1, 2], torch.save, ["nor a state dict of tensors"]),
        (lambda: {"version": 1, "classes": ["a"], "model": {"epoch": 3}}, torch.save, ["nor a state dict of tensors"]),
        (lambda: {"a": 1}, raw_pickle, ["not written by torch.save, or damaged; copy or fetch it again"]),
        (lambda: b"", raw_bytes, ["not a readable checkpoint: empty; copy or fetch it again"]),
        (lambda: b"hello", raw_bytes, ["not written by torch.save, or damaged; copy or fetch it again"]),
        (lambda: bytes(1000), raw_bytes, ["not written by torch.save, or damaged"]),
        (lambda: b"\xff\xd8\xff\xe0" + bytes(99), raw_bytes, ["not written by torch.save, or damaged"]),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid", raw_bytes, ["Git LFS", "`git lfs pull`"]),
        (named_without("fc.bias", torch.tensor(1.0)), torch.save, ["not the weights of a ResNet"]),
        (named_without("fc.bias", torch.zeros(3).to_sparse()), torch.save, ["fc.bias is sparse; give weights in fp32"]),
        (named_without("fc.bias", torch.zeros(3, device="meta")), torch.save, ["fc.bias is without content"]),
        (named_without("fc.bias", torch.zeros(3, dtype=torch.int8)), torch.save, ["fc.bias is of type int8"]),
        (lambda: named("student.") | named("teacher."), torch.save, ["several networks (student., teacher.)"]),
        (
            lambda: {
                k.replace("conv1.", "conv1.0.", 1) if k.startswith("conv1") else k: v for k, v in named("").items()
            },
            torch.save,
            ["not the weights of a ResNet of torchvision (without conv1.weight)"],
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
        with pytest.raises(OptionError, match="not a readable checkpoint: cut short; copy or fetch it again"):
            weights.read(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "beside",
    [
        {"version": 1, "classes": 3},
        {"version": "8.0.1", "classes": ["a"]},
        {"hyper_parameters": collections.defaultdict(dict, {"a": {"b": 1}})},
        {"window": collections.deque([1, 2], maxlen=3)},
    ],
)
def test_other_entries_beside_weights_do_not_matter(beside: dict[str, object], tmp_path: Path) -> None:
    torch.save({"model": named(""), **beside}, tmp_path / "other.pth")
    found = weights.read(tmp_path / "other.pth")
    assert (found.tensors.keys(), found.classes) == (named("").keys(), None)


def test_averaged_weights_of_an_own_checkpoint_are_named(tmp_path: Path) -> None:
    for ema, entry in (({}, ""), (named("module."), "ema")):
        checkpoint.save(tmp_path / "last.pt", {"classes": list(CLASSES), "model": named(""), "ema": ema})
        assert weights.read(tmp_path / "last.pt").averaged == entry


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
    ("classes", "found"), [("3", None), ("dog,cat", None), ("[]", None), ('["a", "b", "c"]', ("a", "b", "c"))]
)
def test_classes_of_safetensors_are_names_or_unknown(
    classes: str, found: tuple[str, ...] | None, tmp_path: Path
) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(dict(named("")), tmp_path / "any.safetensors", metadata={"classes": classes})
    assert weights.read(tmp_path / "any.safetensors").classes == found
