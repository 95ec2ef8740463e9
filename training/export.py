"""Export the weights of a checkpoint for other programs.

torchvision: a state dict that torchvision's own class loads. safetensors: the weights, with metadata on how they
were trained. onnx: the network for any batch, height and width, checked against the model with onnxruntime.
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

SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors", "onnx": ".onnx"}
# (batch, height, width) at which the ONNX network is compared with the model: square, wide and tall.
CHECK_SHAPES = ((1, 224, 224), (3, 128, 192), (2, 160, 96))
OPSET = 18
TOLERANCE = 1e-3  # of the largest logit; sums are rounded in another order


class ExportOptions(Section):
    """One file of weights."""

    checkpoint: Annotated[Path, Argument("CHECKPOINT")] = Field(description="`last.pt` or `best.pt` of a run folder")
    to: Literal["torchvision", "safetensors", "onnx"] = Field(description="format")
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
    about = metadata(state, ema)
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(out) as partial:
        checked = _WRITERS[to](path, state, network, about, partial)
    weights = "averaged weights" if ema else "weights"
    return f"{out}: {weights} of {path}, a {state['arch']} of {len(state['classes'])} classes{checked}\n{input_note()}"


def _network(path: Path, state: dict[str, Any], ema: bool) -> nn.Module:
    """The trained network in evaluation mode, on the CPU."""
    from training.model import resnet, weights

    if ema and not state["ema"]:
        raise OptionError(
            "holds no averaged weights", where=path, remedy="train with --train.ema=0.9999, or leave out --ema"
        )
    if state["arch"] not in weights.ARCHES:
        raise OptionError(
            f"a {state['arch']!r}, which is not one of {', '.join(weights.ARCHES)}", where=path, remedy="use another"
        )
    tensors = state["model"]
    if ema:
        tensors = {name.removeprefix("module."): t for name, t in state["ema"].items() if name != "n_averaged"}
    network = resnet.build(state["arch"], len(state["classes"]), init_bn0=False, blurpool=_blurs(state))
    weights.load_into(network, weights.Weights(source=path, tensors=tensors), tuple(state["classes"]))
    return network.eval()


def _blurs(state: dict[str, Any]) -> bool:
    if "options" in state:
        return bool(state["options"]["model.blurpool"])
    return bool(state["fingerprint"]["model.blurpool"] == "true")  # of checkpoints before there were readable options


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
        "blurpool": _blurs(state),
        "classes": list(state["classes"]),
        "input": _input(),
        "averaged": ema,
        "scores": progress.get("scores", {}),
        "progress": {key: progress[key] for key in ("epoch", "batch", "images_seen", "seconds")},
        "config": state.get("config", {}),  # not in the first checkpoints of version 1
        "options": state.get("options", {}),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    return {name: json.dumps(value) for name, value in about.items()}


def _torchvision(path: Path, state: dict[str, Any], network: nn.Module, about: dict[str, str], partial: Path) -> str:
    import torch
    import torchvision

    from training.model import checkpoint

    if _blurs(state):
        raise OptionError(
            f"torchvision's {state['arch']} has no BlurPool, so it cannot load these weights",
            where=path,
            remedy="--to safetensors and --to onnx can hold them",
        )
    checkpoint.write(partial, network.state_dict())
    model = getattr(torchvision.models, state["arch"])(num_classes=len(state["classes"]))
    model.load_state_dict(torch.load(partial, weights_only=True), strict=True)
    return f"; torchvision.models.{state['arch']}(num_classes={len(state['classes'])}) loads it"


def _safetensors(path: Path, state: dict[str, Any], network: nn.Module, about: dict[str, str], partial: Path) -> str:
    from training.model.weights import needs_extra

    with needs_extra("--to safetensors"):
        from safetensors.torch import save
    partial.write_bytes(save(network.state_dict(), {"format": "pt", **about}))
    return "; the metadata says how they were trained"


def _onnx(path: Path, state: dict[str, Any], network: nn.Module, about: dict[str, str], partial: Path) -> str:
    import torch

    from training.model.weights import needs_extra

    with needs_extra("--to onnx"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter is written in it

    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 160, 192),),
        dynamo=True,
        dynamic_shapes=(axes,),
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    proto.doc_string = f"{state['arch']}, {len(state['classes'])} classes; {input_note()}; gives logits (n, classes)"
    for name, text in about.items():
        proto.metadata_props.add(key=name, value=text)
    onnx.save(proto, partial)
    session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
    error = max(_max_difference(session, network, shape) for shape in CHECK_SHAPES)
    if not error <= TOLERANCE:
        raise OptionError(
            f"onnxruntime's logits are {error:.2g} of the largest off the model's",
            where=path,
            remedy="no file was written",
        )
    return f"; onnxruntime's logits are within {error:.1g} of the largest of the model's own"


def _max_difference(session: Any, network: nn.Module, shape: tuple[int, int, int]) -> float:
    """The largest difference of the logits for random images, as a share of the largest logit."""
    import torch

    batch, height, width = shape
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    (logits,) = session.run(None, {"images": images.numpy()})
    return float((torch.from_numpy(logits) - expected).abs().max() / expected.abs().max())


_WRITERS = {"torchvision": _torchvision, "safetensors": _safetensors, "onnx": _onnx}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
