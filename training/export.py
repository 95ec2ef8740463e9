"""Export the weights of a checkpoint for other programs.

torchvision: a state dict that torchvision's own class loads. safetensors: the weights, with metadata on how they
were trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import partial_file
from data_tools.common.options import Argument, OptionError, Section, parse
from training.config.preflight import check_checkpoint

if TYPE_CHECKING:
    from torch import nn

SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors"}


class ExportOptions(Section):
    """One file of weights."""

    checkpoint: Annotated[Path, Argument("CHECKPOINT")] = Field(description="`last.pt` or `best.pt` of a run folder")
    to: Literal["torchvision", "safetensors"] = Field(description="format")
    out: Path | None = Field(None, description="where to write it; by default beside the checkpoint")
    ema: bool = Field(False, description="export the averaged weights of a run with `train.ema`")


@program("training.export")
def main(argv: Sequence[str]) -> int:
    options = parse(ExportOptions, argv, prog="training.export", description=__doc__ or "")
    average = "_ema" if options.ema else ""
    beside = options.checkpoint.with_name(f"{options.checkpoint.stem}{average}{SUFFIXES[options.to]}")
    print(export(options.checkpoint, options.to, options.out or beside, ema=options.ema))
    return 0


def export(path: Path, to: str, out: Path, *, ema: bool = False) -> str:
    """Write the weights of the checkpoint at ``path`` to ``out``; returns a description.

    OptionError if the checkpoint cannot be exported to that format.
    """
    check_checkpoint("CHECKPOINT", path)
    from training.model import checkpoint  # torch takes seconds to load

    state = checkpoint.load(path)
    network = _network(path, state, ema)
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(out) as partial:
        if to == "torchvision":
            reader = _write_torchvision(path, state, network, partial)
        else:
            reader = _write_safetensors(network, metadata(state, ema), partial)
    weights = "averaged weights" if ema else "weights"
    return f"{out}: {weights} of {path}, a {state['arch']} of {len(state['classes'])} classes; {reader}\n{input_note()}"


def _network(path: Path, state: dict[str, Any], ema: bool) -> nn.Module:
    """The trained network in evaluation mode, on the CPU."""
    from training.model import resnet, weights

    if ema and not state["ema"]:
        remedy = "train with --train.ema=0.9999, or leave out --ema"
        raise OptionError("holds no averaged weights", where=path, remedy=remedy)
    if state["arch"] not in weights.ARCHES:
        what = f"a {state['arch']!r}, which is not one of {', '.join(weights.ARCHES)}"
        raise OptionError(what, where=path, remedy="use another")
    tensors = state["model"]
    if ema:
        tensors = {name.removeprefix("module."): t for name, t in state["ema"].items() if name != "n_averaged"}
    network = resnet.build(state["arch"], len(state["classes"]), init_bn0=False, blurpool=_has_blurpool(state))
    weights.load_into(network, weights.Weights(source=path, tensors=tensors), tuple(state["classes"]))
    return network.eval()


def _has_blurpool(state: dict[str, Any]) -> bool:
    return bool(state["config"]["model"]["blurpool"])


def input_note() -> str:
    """The input that the network expects."""
    about = _input()
    return f"takes RGB / 255 as (n, 3, height, width), less the mean {about['mean']}, divided by the std {about['std']}"


def _input() -> dict[str, Any]:
    from training.engine.step import MEAN, STD

    mean, std = ([round(value / 255, 6) for value in values] for values in (MEAN, STD))
    return {"layout": "NCHW", "channels": "RGB", "range": [0, 1], "mean": mean, "std": std}


def metadata(state: dict[str, Any], ema: bool) -> dict[str, str]:
    """How the weights were trained: JSON texts by name."""
    import torch
    import torchvision

    progress = state["progress"]
    about = {
        "arch": state["arch"],
        "blurpool": _has_blurpool(state),
        "classes": state["classes"],
        "input": _input(),
        "averaged": ema,
        "scores": progress["scores"],
        "progress": {key: progress[key] for key in ("epoch", "batch", "images_seen", "seconds")},
        "config": state["config"],
        "options": state["options"],
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    return {name: json.dumps(value) for name, value in about.items()}


def _write_torchvision(path: Path, state: dict[str, Any], network: nn.Module, partial: Path) -> str:
    """Returns what loads the file."""
    import torch
    import torchvision

    from training.model import checkpoint

    if _has_blurpool(state):
        what = f"torchvision's {state['arch']} has no BlurPool, so it cannot load these weights"
        raise OptionError(what, where=path, remedy="--to safetensors can hold them")
    checkpoint.write(partial, network.state_dict())
    model = getattr(torchvision.models, state["arch"])(num_classes=len(state["classes"]))
    model.load_state_dict(torch.load(partial, weights_only=True), strict=True)
    return f"torchvision.models.{state['arch']}(num_classes={len(state['classes'])}) loads it"


def _write_safetensors(network: nn.Module, about: dict[str, str], partial: Path) -> str:
    """Returns what else the file holds."""
    from training.model.weights import import_safetensors

    safetensors = import_safetensors("--to safetensors")
    partial.write_bytes(safetensors.torch.save(network.state_dict(), {"format": "pt", **about}))
    return "the metadata says how they were trained"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
