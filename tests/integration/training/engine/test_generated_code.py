"""The code that Inductor makes of a step for GPUs that are not there: ptxas takes it, and it moves few bytes."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from torch import nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config
from torchvision.models.resnet import Bottleneck, ResNet

from training.config.train_config import Train
from training.engine.step import LossModule, Predictor, TrainStep
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


def compile_step(device: torch.device, px: int, batch: int, train: Train, **network: bool) -> None:
    """Forward and backward pass of ResNet-50."""
    dtype = resnet.amp_dtype("auto", device)
    network = {"stem_blocks": resnet.stem_on_blocks("auto", dtype, device)} | network
    net = resnet.build("resnet50", 1000, init_bn0=True, **network).to(device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
    step = TrainStep(LossModule(Predictor(net, dtype, device), 0.1), optimizer, train)
    # The backward pass is compiled when it first runs, which it does not here.
    with functorch_config.patch(force_non_lazy_backward_lowering=True), pytest.raises(fake_inductor.NotRun):
        step.prepare(px, batch, device)


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
def test_all_of_a_step_may_run_as_cuda_graphs(fused_batch_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    short_resnet50(monkeypatch)
    counters.clear()
    with fake_inductor.fake_inductor(90, assemble=False) as (device, generated):
        compile_step(device, 96, 256, Train(compile="reduce-overhead"), fused_batch_norm=fused_batch_norm)
    assert generated.recorded == generated.graphs == 2
    assert not counters["inductor"]["cudagraph_skips"]
