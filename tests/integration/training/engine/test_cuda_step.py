"""The step and the validation on a CUDA device of fake tensors: waits, memory layout, graphs and recompilations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.fake_cuda import DeviceLog, fake_cuda, skip_or_fail_with_another_torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from training.config.datasets import Datasets
from training.config.run_config import Dist, RunConfig
from training.config.schedule import Schedule
from training.config.train_config import Arch, Model, Train
from training.distributed.world import World
from training.engine.evaluate import evaluate
from training.engine.metrics import MetricSums
from training.engine.state import TrainState

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
PX, BATCH = 64, 8
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
    "deterministic": {},
}
SQUARES, RECTANGLES = [(PX, PX)], [(PX, 80), (96, PX)]
SHORT_RESNET18 = functools.partial(ResNet, BasicBlock, [1, 1, 1, 1])  # tracing takes half the time


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    skip_or_fail_with_another_torch()
    monkeypatch.setattr(torchvision.models, "resnet18", SHORT_RESNET18)
    with fake_cuda() as device:
        yield device


def state_on(
    device: torch.device,
    *,
    arch: Arch = "resnet18",
    emulate_gpus: int = 1,
    blurpool: bool = False,
    stem_blocks: bool | str = "auto",
    **train: Any,
) -> TrainState:
    config = RunConfig(
        schedule=Schedule(phases=[PHASE]),
        model=Model(arch=arch, blurpool=blurpool, stem_blocks=stem_blocks),
        train=Train(**train),
        dist=Dist(emulate_gpus=emulate_gpus),
    )
    datasets = Datasets(folder=Path("unused"), manifests={}, classes=tuple("abcdefghij"))
    return TrainState(config, datasets, World(rank=0, ranks=1, local_rank=0, local_ranks=1, device=device))


def batch_on(device: torch.device, samples: int = BATCH, sides: tuple[int, int] = (PX, PX)) -> tuple[torch.Tensor, ...]:
    """A batch as the loader hands it over."""
    images = torch.zeros(samples, *sides, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    return images, torch.zeros(samples, dtype=torch.int64, device=device)


def validate(state: TrainState, shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of an epoch, but without reading the scores, of which fake tensors have none."""
    loader: Any = Batches([batch_on(state.world.device, sides=sides) for sides in shapes])
    loader.rectangular = shapes is RECTANGLES
    monkeypatch.setattr(MetricSums, "scores", lambda self, world: None)
    evaluate(state.predict, loader, state.world)
    if state.averaged is not None:
        evaluate(state.averaged, loader, state.world)


class Batches(list[Any]):
    rectangular, batch = False, BATCH

    @property
    def rounds(self) -> int:
        return len(self)


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPTIONS)
def test_step_and_validation_never_wait_and_keep_channels_last(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_on(device, compile="off", **OPTIONS[name])
    images, labels = batch_on(device, BATCH * state.accumulation_steps)
    sums = MetricSums(device)
    with determinism(name == "deterministic"), DeviceLog() as log:
        state.step.prepare(PX, len(images), device)
        for key in range(2):
            state.step(images, labels, 0.1, sums, key=key)
            if state.ema is not None:
                state.ema.update(state.model)
        for shapes in (SQUARES, RECTANGLES):
            validate(state, shapes, monkeypatch)
    assert not log.waits
    assert not log.not_channels_last
    layers = log.launches["convolution"] // (3 * state.accumulation_steps)
    assert log.launches["convolution_backward"] == 3 * state.accumulation_steps * layers
    assert log.launches["conv2d"] == 3 * layers * (2 if name in ("ema", "flip_tta") else 1)


@pytest.mark.parametrize(
    "read",
    [
        lambda on_device: on_device.sum().item(),
        lambda on_device: bool(on_device.any()),
        lambda on_device: on_device.cpu(),
        lambda on_device: torch.ones(2).to(on_device.device),
        lambda on_device: on_device.copy_(torch.ones(2)),
        lambda on_device: on_device[on_device > 0],
    ],
    ids=["item", "truth", "to_host", "to_device", "copy", "mask"],
)
def test_waits_are_seen(read: Callable[[torch.Tensor], Any], device: torch.device) -> None:
    on_device = torch.zeros(2, device=device)
    with DeviceLog() as log, contextlib.suppress(Exception):  # there are no values to be read
        read(on_device)
    assert sum(log.waits.values()) == 1


def test_convolutions_that_are_not_channels_last_are_seen(device: torch.device) -> None:
    with DeviceLog() as log:
        nn.Conv2d(3, 4, 3, device=device)(torch.zeros(2, 3, 8, 8, device=device))
    assert sum(log.not_channels_last.values()) == 3


def test_moving_average_takes_two_launches(device: torch.device) -> None:
    state = state_on(device, compile="off", ema=0.9)
    assert state.ema is not None
    state.ema.update(state.model)
    with DeviceLog() as log:
        state.ema.update(state.model)
    assert log.launches == {"_foreach_lerp_": 1, "_foreach_copy_": 1}
    assert not log.waits


@pytest.mark.parametrize(
    ("train", "launches"),
    [({"amp": "bf16"}, 34), ({"amp": "fp16"}, 58), ({"amp": "fp16", "loss_scale": "dynamic"}, 58)],
    ids=["bf16", "fp16", "dynamic_loss_scale"],
)
def test_step_around_the_network_takes_the_recorded_launches(
    train: dict[str, Any], launches: int, device: torch.device
) -> None:
    state = state_on(device, arch="resnet50", compile="off", **train)
    images, labels = batch_on(device)

    def compiled(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for parameter in state.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        return torch.empty((), device=device, requires_grad=True), torch.empty(BATCH, 10, device=device)

    state.step.forward = compiled
    with DeviceLog() as log:
        state.step(images, labels, 0.1, MetricSums(device))
    assert sum(log.launches.values()) == launches, log.launches


COMPILED: list[Any] = [
    ({"amp": "bf16"}, SQUARES),
    ({"amp": "fp16", "loss_scale": "dynamic"}, RECTANGLES),
    ({"amp": "bf16", "mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "stem_blocks": True}, SQUARES),
    ({"amp": "fp16", "loss": "bce", "decay_decoupled": True, "clip_norm": 1.0}, SQUARES),
    pytest.param({"amp": "bf16", "arch": "resnet50"}, RECTANGLES, marks=pytest.mark.slow),
    pytest.param({"amp": "fp16", "arch": "resnet50"}, SQUARES, marks=pytest.mark.slow),
    pytest.param({"amp": "fp32", "label_smoothing": 0.1}, SQUARES, marks=pytest.mark.slow),
    pytest.param({"amp": "bf16", "blurpool": True, "flip_tta": True}, RECTANGLES, marks=pytest.mark.slow),
    pytest.param({"emulate_gpus": 2, "mixup": 0.2, "cutmix": 1.0}, SQUARES, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("options", "shapes"), COMPILED)
def test_phase_compiles_one_graph_in_prepare_and_nothing_later(
    options: dict[str, Any], shapes: list[tuple[int, int]], device: torch.device, monkeypatch: pytest.MonkeyPatch
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
    state = state_on(device, **options)
    sums = MetricSums(device)
    for px in (PX, PX + 32):
        graphs.clear()
        images, labels = batch_on(device, BATCH * state.accumulation_steps, (px, px))
        state.step.prepare(px, len(images), device)
        assert len(graphs) == 1
        for epoch in range(2):
            state.model.train()
            for key in range(4):
                state.step(images, labels, 0.1 / (1 + key), sums, key=4 * epoch + key)
                if state.ema is not None:
                    state.ema.update(state.model)
            validate(state, shapes, monkeypatch)
        assert len(graphs) == 1
