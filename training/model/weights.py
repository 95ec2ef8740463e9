"""Weights of a network from a file: a checkpoint of this or another program, a torch state dict as torchvision
publishes it, or safetensors.

One rule for all: the state dict is what the file holds, or is under one of `ENTRIES`. What all names begin with is
stripped as long as it is one of `PREFIXES`; the names that remain must be those of the network's parameters.
"""

import contextlib
import itertools
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from data_tools.beton.classes import in_imagenets_order
from data_tools.common.errors import printable
from data_tools.common.options import OptionError
from training.config.train_config import NETWORKS, RESNETS, Model
from training.model import checkpoint, networks

ENTRIES = ("state_dict", "model", "model_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and Lightning's usual attribute
OURS = {"arch", "classes", "options"}  # beside the weights in a checkpoint, and in the metadata of an export
# BatchNorm's count of batches is used only in training, and old files lack it.
COUNTER = ".num_batches_tracked"
# Constants: FFCV's blur, which resnet.BlurredConv makes itself, and the count of a moving average.
CONSTANTS = ("blur_filter", "n_averaged")
# In torchvision's files of DenseNets and ViTs, layers have the names of older versions.
OLD_NAMES = {
    r"(denselayer\d+\.\w+)\.([12])\.": r"\1\2.",
    r"\.mlp\.linear_1\.": ".mlp.0.",
    r"\.mlp\.linear_2\.": ".mlp.3.",
}
Shapes = dict[str, tuple[int, ...]]

logger = logging.getLogger(__name__)


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
    classes, others = None, list[str]()
    if path.suffix == ".safetensors":
        content, about = _read_safetensors(path)
        if about.keys() >= OURS:
            with contextlib.suppress(ValueError):  # another program's
                classes = json.loads(about["classes"])
    else:
        with contextlib.suppress(Exception):  # of a damaged file, as many types as torch.load; the next says which
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Unread, name) for name in others]):
            content = checkpoint.read(path)
        if isinstance(content, Mapping) and content.keys() >= OURS:  # of any version
            classes = content["classes"]
    tensors, averaged = find(path, content)
    named = tuple(classes) if isinstance(classes, list) else None
    return Weights(source=path, tensors=tensors, classes=named, averaged=averaged)


class Unread:
    """Stands in for the classes and functions of what other programs pickle beside their weights, such as arguments;
    they are neither imported nor called. An empty OrderedDict, which torch lets any object's state be put into."""

    def __new__(cls, *args: object) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata."""
    safetensors = import_safetensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        what, remedy = f"not readable safetensors ({error})", "download or export it again"
        raise OptionError(what, where=path, remedy=remedy) from error


def import_safetensors(where: object) -> ModuleType:
    """The package, which is an extra. OptionError if it is missing; it is needed for ``where``."""
    try:
        import safetensors.torch
    except ImportError as error:
        what, remedy = f"the package {error.name} is missing", "make env EXTRAS=export, or pip install safetensors"
        raise OptionError(what, where=where, remedy=remedy) from error
    return safetensors


def find(path: Path, content: object) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict in what was read from ``path``, and the entry of averaged weights beside it, if any.

    OptionError if there is no state dict.
    """
    entries = content if isinstance(content, Mapping) else {}
    mappings = [key for key, value in entries.items() if isinstance(value, Mapping) and value]
    entry = next((key for key in ENTRIES if key in mappings), None)
    averaged = next((key for key in mappings if key != entry and "ema" in str(key).split("_")), "")
    state_dict = entries if entry is None else entries[entry]
    tensors = {
        str(name): value
        for name, value in state_dict.items()
        if isinstance(value, torch.Tensor) and not str(name).endswith(CONSTANTS)
    }
    if not tensors:
        what = f"no state dict of tensors (its keys: {_first(state_dict)})"
        raise OptionError(what, where=path, remedy=checkpoint.WEIGHTS_ALONE)
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    for old, new in OLD_NAMES.items():
        tensors = {re.sub(old, new, name): value for name, value in tensors.items()}
    return tensors, averaged


def load_into(network: nn.Module, weights: Weights, classes: tuple[str, ...]) -> None:
    """Load the weights into ``network``, whose outputs are ``classes``. OptionError if they do not fit."""
    if weights.classes not in (None, classes):
        what = f"for {len(weights.classes or ())} classes other than the {len(classes)} here"
        raise OptionError(what, where=weights.source, remedy="give betons of the data that it was trained on")
    _load(network, weights)
    _note_unnamed(weights, classes)


def begin_from(network: nn.Module, weights: Weights, classes: tuple[str, ...]) -> bool:
    """Load the weights into ``network``, to train it on for ``classes``. OptionError if they do not fit.

    True if they are for other classes, so that its last layer stays as it is. Classes without names count as the same
    if there are as many.
    """
    own, given, last = _shapes(network.state_dict()), _shapes(weights.tensors), networks.last_layer(network)
    has_new_layer = weights.classes not in (None, classes) or any(own[name] != given.get(name) for name in last)
    _load(network, weights, new=set(last) if has_new_layer else set())
    if not has_new_layer:
        _note_unnamed(weights, classes)
    return has_new_layer


def _note_unnamed(weights: Weights, classes: tuple[str, ...]) -> None:
    """Say which classes the outputs are taken for, where only a guess can say it."""
    if weights.classes is None and not in_imagenets_order(classes):
        logger.info(
            "note: %s holds no class names, and the classes of the betons are not ImageNet's in ImageNet's order; its "
            "outputs are assumed to be in the order of the betons: 0 is %s, %d is %s",
            *(weights.source, printable(classes[0]), len(classes) - 1, printable(classes[-1])),
        )


def _load(network: nn.Module, weights: Weights, new: Set[str] = frozenset()) -> None:
    """Load all weights but ``new``. OptionError if they are not those of ``network``."""
    own = network.state_dict()
    wanted, given = _shapes(own), _shapes(weights.tensors)
    if differing := [name for name in given | wanted if given.get(name) != wanted.get(name) and name not in new]:
        what, remedy = _misfit(wanted, given, differing, networks.last_layer(network))
        raise OptionError(what, where=weights.source, remedy=remedy)
    for name, tensor in weights.tensors.items():
        is_dense = tensor.layout is torch.strided and not tensor.is_meta
        same_kind = tensor.is_floating_point() == own.get(name, tensor).is_floating_point()
        if not (is_dense and (same_kind or name.endswith(COUNTER))):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            remedy = "give dense weights in fp32, bf16 or fp16"
            raise OptionError(f"{name} is {kind}", where=weights.source, remedy=remedy)
        if not tensor.isfinite().all():
            remedy = "give weights from before they overflowed"
            raise OptionError(f"{name} holds nan or infinity", where=weights.source, remedy=remedy)
    fitting = {k: v for k, v in weights.tensors.items() if k in own.keys() - new and v.shape == own[k].shape}
    network.load_state_dict(own | fitting)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: tensor.shape for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def _misfit(wanted: Shapes, given: Shapes, differing: Collection[str], last: list[str]) -> tuple[str, str]:
    """Why weights with the shapes ``given`` do not fit a network with this ``last`` layer, and the remedy."""
    outputs, any_fc = given.get(last[-1], ()), dict.fromkeys(("fc.weight", "fc.bias"), ())
    if set(differing) <= set(last) and outputs not in ((), wanted[last[-1]]):
        what = f"{outputs[0]} outputs, but the betons have {wanted[last[-1]][0]} classes"
        return what, "give betons of its training data"
    resnets = [arch for arch in NETWORKS if arch.startswith(RESNETS)]
    for net in (Model(arch=arch, blurpool=blurpool) for arch, blurpool in itertools.product(resnets, (False, True))):
        other = _shapes(networks.without_weights(net, 1).state_dict())
        if other | any_fc == given | any_fc != wanted | any_fc:
            options = f"--model.arch={net.arch} --model.blurpool={str(net.blurpool).lower()}"
            return "the weights of another network", f"give {options}"
    what = f"not the weights of this network (differing: {_first(differing)})"
    return what, "give a state dict of the network that --model.arch names"


def _first(names: Collection[object]) -> str:
    """Three of the names."""
    return ", ".join(map(str, [*names][:3])) + (", …" if len(names) > 3 else "") or "none"
