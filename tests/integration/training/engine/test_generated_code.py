"""The code that Inductor makes of a step for GPUs that are not there: ptxas takes it, and it moves few bytes."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from torch import nn
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


@pytest.mark.parametrize(("architecture", "stem_blocks"), [(75, "auto"), (90, "auto"), (100, False)])
def test_ptxas_takes_every_kernel_and_elementwise_work_is_fused(
    architecture: int, stem_blocks: bool | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every kind of kernel that ResNet-50 has.
    monkeypatch.setattr(torchvision.models, "resnet50", functools.partial(ResNet, Bottleneck, [1, 1, 1, 1]))
    least = bytes_of_convolutions(resnet.build("resnet50", 1000, init_bn0=True))
    with fake_inductor.fake_inductor(architecture) as (device, generated):
        dtype = resnet.amp_dtype("auto", device)
        blocks = resnet.stem_on_blocks(stem_blocks, dtype, device)
        net = resnet.build("resnet50", 1000, init_bn0=True, stem_blocks=blocks).to(device)
        net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        step = TrainStep(LossModule(Predictor(net, dtype, device), 0.1), optimizer, Train())
        # The backward pass is compiled when it first runs, which it does not here.
        with functorch_config.patch(force_non_lazy_backward_lowering=True), pytest.raises(fake_inductor.NotRun):
            step.prepare(PX, BATCH, device)
    assert generated.graphs == 2  # forward and backward
    assert generated.assembled
    # Each convolution's result, its gradient and what BatchNorm, ReLU and pooling make of them: about 17 passes.
    assert 12 < generated.bytes_accessed / BATCH / least < 20
