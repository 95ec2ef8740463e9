"""The step and the validation: what they would wait for on a GPU, memory layout, graphs and recompilations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.device_log import device_log
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from training.config.datasets import Datasets
from training.config.run_config import Dist, RunConfig
from training.config.schedule import Schedule
from training.config.train_config import Model, Train
from training.distributed.world import World
from training.engine.evaluate import evaluate
from training.engine.metrics import MetricSums
from training.engine.state import TrainState

CPU = torch.device("cpu")
PX, BATCH = 32, 4
LR = {"epochs": [0, 1], "from": 0.1, "to": 0.1}
PHASE = {"epochs": [0, 1], "px": PX, "batch_per_gpu": BATCH, "data": 160, "lr": [LR]}
OPTIONS: dict[str, dict[str, Any]] = {
    "fp32": {"amp": "fp32"},
    "bf16": {"amp": "bf16"},
    "fp16": {"amp": "fp16"},
    "dynamic_loss_scale": {"amp": "fp16", "loss_scale": "dynamic"},
    "ema": {"ema": 0.9},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "label_smoothing": {"label_smoothing": 0.1},
    "accumulation": {"emulate_gpus": 2, "mixup": 0.2},
    "flip_tta": {"flip_tta": True},
    "blurpool": {"blurpool": True},
    "bce": {"loss": "bce", "label_smoothing": 0.08},
    "decay_and_clipping": {"amp": "fp16", "decay_decoupled": True, "clip_norm": 1.0},
    "decay_without_a_scale": {"amp": "bf16", "decay_decoupled": True, "clip_norm": 1.0},
    "stem_blocks": {"stem_blocks": True},
}
SQUARES, RECTANGLES = [(PX, PX)], [(PX, 40), (48, PX)]


@pytest.fixture(autouse=True)
def half_a_resnet18(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "resnet18", functools.partial(ResNet, BasicBlock, [1, 1, 1, 1]))


def state_of(
    *, emulate_gpus: int = 1, blurpool: bool = False, stem_blocks: bool | str = "auto", **train: Any
) -> TrainState:
    config = RunConfig(
        schedule=Schedule(phases=[PHASE]),
        model=Model(arch="resnet18", blurpool=blurpool, stem_blocks=stem_blocks),
        train=Train(**train),
        dist=Dist(emulate_gpus=emulate_gpus),
    )
    datasets = Datasets(folder=Path("unused"), manifests={}, classes=tuple("abcdefghij"))
    return TrainState(config, datasets, World(device=CPU))


def batch_of(samples: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as the loader hands it over."""
    images = torch.zeros(samples, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    return images, torch.zeros(samples, dtype=torch.int64)


class Batches(list[Any]):
    rectangular, batch = False, BATCH

    @property
    def rounds(self) -> int:
        return len(self)


def validate(state: TrainState, shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of an epoch, but without reading the scores, for which the host has to wait."""
    loader: Any = Batches([batch_of(BATCH, *sides) for sides in shapes])
    loader.rectangular = shapes is RECTANGLES
    monkeypatch.setattr(MetricSums, "scores", lambda self, world: None)
    evaluate(state.predict, loader, state.world)
    if state.averaged is not None:
        evaluate(state.averaged, loader, state.world)


@pytest.mark.parametrize("name", OPTIONS)
def test_step_and_validation_never_wait_and_keep_channels_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(compile="off", **OPTIONS[name])
    images, labels = batch_of(BATCH * state.step.accumulation_steps, PX, PX)
    sums = MetricSums(CPU)
    with device_log() as log:
        state.step.prepare(PX, len(images), CPU)
        for key in range(2):
            state.step(images, labels, 0.1, sums, key=key)
            if state.ema is not None:
                state.ema.update(state.model)
        for shapes in (SQUARES, RECTANGLES):
            validate(state, shapes, monkeypatch)
    assert not log.waits
    assert not log.not_channels_last
    assert log.mismatched and not any(log.mismatched.values())


@pytest.mark.parametrize(
    "read",
    [
        lambda on_device: on_device.sum().item(),
        lambda on_device: bool(on_device.any()),
        lambda on_device: on_device.cpu(),
        lambda on_device: on_device.to("cpu"),
        lambda on_device: torch.tensor([1.0, 2.0], device=on_device.device),
        lambda on_device: torch.ones(2).to(on_device.device),
        lambda on_device: on_device[on_device > 0],
    ],
    ids=["item", "truth", "cpu", "to_host", "literal", "to_device", "mask"],
)
def test_waits_are_seen(read: Callable[[torch.Tensor], Any]) -> None:
    with device_log() as log:
        read(torch.zeros(2))
    assert sum(log.waits.values()) == 1


def test_other_layouts_are_seen() -> None:
    weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
    weight.grad = torch.zeros(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([weight], fused=True)
    with device_log() as log:
        nn.functional.conv2d(torch.zeros(2, 3, 8, 8), weight)
        optimizer.step()
    assert sum(log.not_channels_last.values()) == 3
    assert sum(log.mismatched.values()) == 1


COMPILED: list[Any] = [
    ({"amp": "bf16"}, SQUARES),
    ({"amp": "fp16", "loss_scale": "dynamic"}, RECTANGLES),
    ({"amp": "bf16", "mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "stem_blocks": True}, SQUARES),
    ({"amp": "fp16", "loss": "bce", "decay_decoupled": True, "clip_norm": 1.0}, SQUARES),
    pytest.param({"amp": "bf16", "blurpool": True, "flip_tta": True}, RECTANGLES, marks=pytest.mark.slow),
    pytest.param({"emulate_gpus": 2, "mixup": 0.2, "cutmix": 1.0}, SQUARES, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("options", "shapes"), COMPILED)
def test_phase_compiles_one_graph_in_prepare_and_nothing_later(
    options: dict[str, Any], shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile  # fullgraph: a break of the graph is an error
    monkeypatch.setattr(
        torch,
        "compile",
        lambda module, *, dynamic, mode: compile_(module, dynamic=dynamic, backend=counting, fullgraph=True),
    )
    state = state_of(compile="default", **options)
    sums = MetricSums(CPU)
    for px in (PX, PX + 16):
        graphs.clear()
        images, labels = batch_of(BATCH * state.step.accumulation_steps, px, px)
        state.step.prepare(px, len(images), CPU)
        assert len(graphs) == 1
        for epoch in range(2):
            state.model.train()
            for key in range(2):
                state.step(images, labels, 0.1 / (1 + key), sums, key=4 * epoch + key)
                if state.ema is not None:
                    state.ema.update(state.model)
            validate(state, shapes, monkeypatch)
        assert len(graphs) == 1
