"""The code that Inductor makes of a step for GPUs that are not there: ptxas takes it, and it moves few bytes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from helpers.fake_ranks import fake_ranks
from torch import nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config
from torchvision.models.resnet import Bottleneck, ResNet

from training.config.train_config import Model, Train
from training.distributed.world import World
from training.engine.build import build_step
from training.engine.step import LossModule
from training.model import resnet

fake_inductor = pytest.importorskip("helpers.fake_inductor", exc_type=ImportError)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not torch.__version__.startswith(f"{fake_inductor.MADE_FOR}."),
        reason=f"helpers/fake_inductor.py is made for torch {fake_inductor.MADE_FOR}",
    ),
]
PX, BATCH = 224, 224  # titan8's second phase


def bytes_of_convolutions(net: nn.Module) -> int:
    """What all convolutions of the network return for one image, in half precision."""
    found: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, out: found.append(2 * out.numel()))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, PX, PX))
    return sum(found)


def short_resnet50(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of kernel that ResNet-50 has."""
    monkeypatch.setattr(torchvision.models, "resnet50", functools.partial(ResNet, Bottleneck, [1, 1, 1, 1]))


def compile_step(device: torch.device, px: int, batch: int, train: Train, ranks: int = 1, **network: bool) -> None:
    """Forward and backward pass of ResNet-50, as the first of ``ranks`` processes."""
    world = World(rank=0, ranks=ranks, local_rank=0, local_ranks=ranks, device=device)
    step = build_step(Model.model_validate({"arch": "resnet50"} | network), train, 1000, world, highest_lr=0.0)
    # The backward pass is compiled when it first runs, which it does not here.
    with functorch_config.patch(force_non_lazy_backward_lowering=True), pytest.raises(fake_inductor.NotRun):
        step.prepare(px, batch, device)


def compile_cuda_graphs(ranks: int, **network: bool) -> fake_inductor.Generated:
    counters.clear()
    with (
        fake_ranks(ranks) if ranks > 1 else contextlib.nullcontext(),
        fake_inductor.fake_inductor(90, assemble=False) as (device, generated),
    ):
        compile_step(device, 96, 256, Train(compile="reduce-overhead"), ranks, **network)
    return generated


@pytest.mark.parametrize(
    ("architecture", "network"),
    [
        (75, {}),
        (90, {}),
        (100, {"stem_blocks": False}),
        (75, {"fused_batch_norm": True}),
        (80, {"fused_batch_norm": True}),
        (90, {"fused_batch_norm": True}),
        (100, {"fused_batch_norm": True}),
    ],
)
def test_ptxas_takes_every_kernel_and_elementwise_work_is_fused(
    architecture: int, network: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    short_resnet50(monkeypatch)
    least = bytes_of_convolutions(resnet.build("resnet50", 1000, init_bn0=True))
    with fake_inductor.fake_inductor(architecture) as (device, generated):
        compile_step(device, PX, BATCH, Train(), **network)
    assert generated.graphs == 2  # forward and backward
    assert ("sum_moments" in generated.assembled) is bool(network.get("fused_batch_norm"))
    own = {name: stack for name, stack in generated.assembled.items() if "triton_" not in name}
    assert own.keys() >= {"pool_windows", "spread_gradients"}
    assert not any(own.values()), "registers are spilled"
    # Each convolution's result, its gradient and what BatchNorm, ReLU and pooling make of them: about 17 passes.
    assert 12 < generated.bytes_accessed / BATCH / least < 20


def test_kernels_of_batch_norm_move_few_bytes() -> None:
    with fake_inductor.fake_inductor(90, assemble=False) as (device, generated):
        compile_step(device, PX, BATCH, Train(), fused_batch_norm=True)
    assert generated.bytes_accessed / BATCH < 335e6  # 322.9 MB; without the kernels 394.7


@pytest.mark.parametrize("fused_batch_norm", [False, True])
@pytest.mark.parametrize(("ranks", "buckets"), [(1, 1), (8, 3)])
def test_all_of_a_step_may_run_as_cuda_graphs(
    ranks: int, buckets: int, fused_batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_resnet50(monkeypatch)
    found = compile_cuda_graphs(ranks, fused_batch_norm=fused_batch_norm)
    assert found.recorded == found.graphs == 2 * buckets  # forward and backward
    assert not counters["inductor"]["cudagraph_skips"] and not counters["inductor"]["cudagraph_partitions"]


def through_the_host(self: LossModule, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = self.predict(images).cpu().to(images.device)
    return self.loss(logits, labels), logits


def changing_labels(self: LossModule, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = self.predict(images)
    return self.loss(logits, labels.clamp_(max=9)), logits


@pytest.mark.parametrize(("forward", "recorded", "parts"), [(through_the_host, 8, 6), (changing_labels, 5, 0)])
def test_a_copy_cuts_cuda_graphs_and_a_changed_batch_prevents_one(
    forward: Callable[..., Any], recorded: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_resnet50(monkeypatch)
    monkeypatch.setattr(LossModule, "forward", forward)
    found = compile_cuda_graphs(ranks=8)
    assert (found.graphs, found.recorded) == (6, recorded)
    assert counters["inductor"]["cudagraph_partitions"] == parts
