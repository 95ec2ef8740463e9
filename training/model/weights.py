"""Weights of a network from a file: a checkpoint of this or another program, a torch state dict as torchvision
publishes it, or safetensors. The format is recognised by content."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from data_tools.common.options import OptionError
from training.config.train_config import Model
from training.model import checkpoint, resnet, state_dicts

ARCHES: tuple[str, ...] = get_args(get_type_hints(Model)["arch"])
# BatchNorm's count of batches is used only in training, and old files lack it.
COUNTERS = ".num_batches_tracked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """``tensors`` by parameter name; ``classes`` in the order of the outputs, None if ``source`` does not have them;
    ``averaged``, the entry of averaged weights that ``source`` holds beside these."""

    source: Path
    tensors: Mapping[str, torch.Tensor]
    classes: tuple[str, ...] | None = None
    averaged: str = ""


def read(path: Path) -> Weights:
    """The weights at ``path``, on the CPU; no code in the file is run. OptionError if they cannot be read."""
    if path.is_file() and _is_safetensors(path):
        return _from_safetensors(path)
    content = checkpoint.read(path, skip_objects=True)
    if isinstance(content, dict) and _is_ours(content):
        state = checkpoint.check_version(path, content)
        averaged = "ema" if state.get("ema") else ""
        tensors = state_dicts.find(path, state["model"])[0]
        return Weights(source=path, tensors=tensors, classes=tuple(state["classes"]), averaged=averaged)
    tensors, averaged = state_dicts.find(path, content)
    return Weights(source=path, tensors=tensors, averaged=averaged)


def _is_ours(content: Mapping[str, Any]) -> bool:
    """Whether it has what `checkpoint.save` writes; other programs, too, have a version and classes."""
    kinds = {"version": int, "classes": list, "model": Mapping}
    return all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with eight bytes of length and then JSON, unlike torch's formats."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and not head.startswith((b"PK", b"\x80"))


def _from_safetensors(path: Path) -> Weights:
    with needs_extra(f"{path}: safetensors"):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise OptionError(
            f"not readable safetensors ({error})", where=path, remedy="fetch or export it again"
        ) from error
    classes = _class_names(metadata.get("classes", ""))
    return Weights(source=path, tensors=state_dicts.find(path, tensors)[0], classes=classes)


def _class_names(text: str) -> tuple[str, ...] | None:
    """The list that `training.export` writes; None for what other programs call classes, as their number."""
    with contextlib.suppress(ValueError):
        if isinstance(names := json.loads(text), list) and names:
            return tuple(map(str, names))
    return None


@contextlib.contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Turn an ImportError of a package of the extra ``export`` into an OptionError."""
    try:
        yield
    except ImportError as error:
        raise OptionError(
            f"the package {error.name} is missing",
            where=what,
            remedy="make env EXTRAS=export, or elsewhere pip install -e '.[export]'",
        ) from error


def load_into(network: nn.Module, weights: Weights, classes: tuple[str, ...]) -> None:
    """Load the weights into ``network``, whose outputs are ``classes``. OptionError if they do not fit."""
    if weights.classes is not None and weights.classes != classes:
        raise OptionError(
            f"for {len(weights.classes)} classes other than the {len(classes)} here",
            where=weights.source,
            remedy="give betons of the data that it was trained on",
        )
    wanted, given = _shapes(network.state_dict()), _shapes(weights.tensors)
    if wanted != given:
        raise OptionError(f"{_difference(wanted, given)}", where=weights.source)
    _check_plain(weights)
    network.load_state_dict(weights.tensors)


FC = ("fc.weight", "fc.bias")


def begin_from(network: nn.Module, weights: Weights, classes: tuple[str, ...]) -> bool:
    """Load the weights into ``network``, to train it on for ``classes``. OptionError if they do not fit.

    True if they are for other classes, so that its fc layer stays as it is. Classes without names count as the same if
    there are as many.
    """
    own = network.state_dict()
    wanted, given = _shapes(own), _shapes(weights.tensors)
    other_classes = weights.classes not in (None, classes) or any(wanted[key] != given.get(key) for key in FC)
    kept = FC if other_classes else ()
    if {k: v for k, v in wanted.items() if k not in kept} != {k: v for k, v in given.items() if k not in kept}:
        raise OptionError(_difference(wanted, given), where=weights.source)
    _check_plain(weights)
    network.load_state_dict({**weights.tensors, **{key: own[key] for key in kept}})
    return other_classes


def _check_plain(weights: Weights) -> None:
    """OptionError for a tensor that torch does not copy into a parameter, or only with other values."""
    for name, value in weights.tensors.items():
        kind = (
            "quantised"
            if value.is_quantized
            else "sparse"
            if value.layout is not torch.strided
            else "without content"
            if value.is_meta
            else f"of type {str(value.dtype).removeprefix('torch.')}"
            if not (value.is_floating_point() or name.endswith(COUNTERS))
            else ""
        )
        if kind:
            remedy = "give weights in fp32, bf16 or fp16"
            raise OptionError(f"{name} is {kind}", where=weights.source, remedy=remedy)


def checksum(network: nn.Module) -> int:
    """CRC-32 of all weights and statistics, by which processes compare them."""
    value = 0
    for tensor in network.state_dict().values():
        value = zlib.crc32(tensor.cpu().contiguous().numpy(), value)
    return value


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(COUNTERS)}


def _difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    outputs = (*given.get("fc.bias", ()), 1)[0]
    for arch in ARCHES:
        for blurpool in (False, True):
            with torch.device("meta"):
                other = _shapes(resnet.build(arch, outputs, init_bn0=False, blurpool=blurpool).state_dict())
            if other == given:
                if other.keys() == wanted.keys():
                    here = wanted["fc.bias"][0]
                    return f"{outputs} outputs, but the betons have {here} classes; give betons of its training data"
                options = f"--model.arch={arch} --model.blurpool={str(blurpool).lower()}"
                return f"the weights of another network; give {options}"
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    first = f"without {missing[0]}" if missing else f"with {extra[0]}" if extra else "with other shapes"
    return f"not the weights of a ResNet of torchvision ({first}); give a state dict of one of {', '.join(ARCHES)}"
