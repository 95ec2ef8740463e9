"""Export the weights of a checkpoint for other programs.

torchvision: a state dict that the network in torchvision, or timm, loads. safetensors: the weights, with metadata on
how they were trained.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import check_output, partial_file
from data_tools.common.options import Argument, OptionError, Section, parse
from training.config.startup_checks import check_checkpoint
from training.config.train_config import TIMM, Model, check_arch

if TYPE_CHECKING:
    from torch import nn

SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors"}


class ExportOptions(Section):
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


def export(path: Path, to: str, out: Path, *, ema: bool) -> str:
    """Write the weights of the checkpoint at ``path`` to ``out``; returns a description.

    OptionError if the checkpoint cannot be exported to that format.
    """
    check_checkpoint("CHECKPOINT", path)
    if out.suffix in SUFFIXES.values() and out.suffix != SUFFIXES[to]:  # by which programs tell the formats apart
        raise OptionError(f"{out} would be a {SUFFIXES[to]}", where="--out", remedy="give it that name")
    check_output(out, *SUFFIXES.values())
    import torch  # takes seconds to load

    from training.model import checkpoint, networks, weights

    state = checkpoint.load(path)
    arch, classes = state["arch"], len(state["classes"])
    network = _network(path, state, ema)
    if to == "torchvision" and _has_blurpool(state):
        what = f"torchvision's {arch} has no BlurPool, so it cannot load these weights"
        raise OptionError(what, where=path, remedy="--to safetensors can hold them")
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(out) as partial:
        if to == "torchvision":
            content = io.BytesIO()
            torch.save(network.state_dict(), content)
            partial.write_bytes(content.getvalue())
            content.seek(0)
            theirs = networks.published(arch, classes)
            theirs.load_state_dict(torch.load(content, weights_only=True), strict=True)
            name = arch.removeprefix(TIMM)
            made = f"torchvision.models.{arch}(" if name == arch else f"timm.create_model({name!r}, "
            note = f"{made}num_classes={classes}) loads it"
        else:
            safetensors = weights.import_safetensors("--to safetensors")
            partial.write_bytes(safetensors.torch.save(network.state_dict(), metadata(state, ema)))
            note = "the metadata says how they were trained"
    kind, given = "averaged weights" if ema else "weights", _input()
    return (
        f"{out}: {kind} of {path}, a {arch} of {classes} classes; {note}\n"
        f"takes RGB / 255 as (n, 3, height, width), less the mean {given['mean']}, divided by the std {given['std']}"
    )


def _network(path: Path, state: dict[str, Any], ema: bool) -> nn.Module:
    """The trained network in evaluation mode, on the CPU."""
    from training.model import networks, weights

    if ema and not state["ema"]:
        remedy = "train with --train.ema=0.9999, or leave out --ema"
        raise OptionError("holds no averaged weights", where=path, remedy=remedy)
    tensors, _ = weights.find(path, state["ema" if ema else "model"])
    classes = tuple(state["classes"])
    try:
        net = Model(arch=check_arch(str(state["arch"])), blurpool=_has_blurpool(state))
        network = networks.build(net, len(classes))
    except OptionError as error:
        raise OptionError(error.fault, where=path, remedy=error.remedy) from None
    weights.load_into(network, weights.Weights(source=path, tensors=tensors, classes=classes), classes)
    return network.eval()


def _has_blurpool(state: dict[str, Any]) -> bool:
    return bool(state["config"]["model"]["blurpool"])


def _input() -> dict[str, Any]:
    from training.engine.step import MEAN, STD

    mean, std = ([round(value / 255, 6) for value in values] for values in (MEAN, STD))
    return {"layout": "NCHW", "channels": "RGB", "range": [0, 1], "mean": mean, "std": std}


def metadata(state: dict[str, Any], ema: bool) -> dict[str, str]:
    """How the weights were trained: the format that other programs look for, and JSON texts by name."""
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
    return {"format": "pt"} | {name: json.dumps(value) for name, value in about.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
