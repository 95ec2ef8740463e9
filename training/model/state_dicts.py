"""The weights of a network in what other programs save: which entry holds them, and what their names begin with.

Known by their sources: torchvision's reference script, timm, Lightning, composer, imagenet18, ffcv-imagenet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from data_tools.common.options import OptionError

ENTRIES = ("state_dict", "model", "model_state_dict", "state", "network", "net", "weights")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
DEEPEST = 3  # composer's weights are at state.model
WRAPPERS = {"module", "_orig_mod"}  # of DataParallel and torch.compile
# Constants: FFCV's blur, which resnet.BlurredConv makes itself, and the count of a moving average.
CONSTANTS = ("blur_filter", "n_averaged")
FIRST = ("conv1.weight", "layer1.0.conv1.weight")  # names of every ResNet; the second alone is in a block, too
REMEDY = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"


def find(path: Path, content: object) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors by the names of a plain network, and the entry of averaged weights beside them, if any.

    OptionError if ``content``, which was read from ``path``, holds no weights, or those of several networks.
    """
    averaged = ""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping) or any(isinstance(value, torch.Tensor) for value in content.values()):
            break
        beside = next(_mappings(content, AVERAGED), "")
        entry = next(_mappings(content, ENTRIES), beside)
        if not entry:
            break
        averaged = averaged or (beside if entry != beside else "")
        content = content[entry]
    tensors = _tensors(content)
    if not tensors:
        raise OptionError("neither a checkpoint of this program nor a state dict of tensors", where=path, remedy=REMEDY)
    return _of_network(path, tensors), averaged


def _mappings(content: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if isinstance(content.get(name), Mapping) and content[name])


def _tensors(content: object) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name, without the names that wrappers insert."""
    if not isinstance(content, Mapping):
        return {}
    return {
        ".".join(part for part in str(name).split(".") if part not in WRAPPERS): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor) and not str(name).endswith(CONSTANTS)
    }


def _of_network(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the prefix of all names of the network (``model.`` in Lightning), and without other entries.

    All as they are if no names are those of a ResNet, so that a comparison shows what differs.
    """
    starts = [name.removesuffix(FIRST[0]) for name in tensors if name.endswith(FIRST[0])]
    starts = [start for start in starts if start + FIRST[1] in tensors]
    if len(starts) > 1 and "" not in starts:
        raise OptionError(f"holds the weights of several networks ({', '.join(starts)})", where=path, remedy=REMEDY)
    if not starts or "" in starts:
        return dict(tensors)
    return {name.removeprefix(starts[0]): value for name, value in tensors.items() if name.startswith(starts[0])}
