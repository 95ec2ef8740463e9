"""The code that Inductor makes of a step for GPUs that are not there: launches, memory traffic, and ptxas."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import torchvision
from helpers.fake_cuda import skip_or_fail_with_another_torch
from helpers.fake_inductor import NotRun, fake_inductor
from torch._functorch import config as functorch_config
from torchvision.models.resnet import Bottleneck, ResNet

from training.config.run_config import Train
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import resnet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SHORT = functools.partial(ResNet, Bottleneck, [1, 1, 1, 1])  # every kind of kernel that ResNet-50 has
PX, BATCH = 224, 224  # titan8's second phase


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    architecture: int
    triton_launches: int
    library_launches: int
    mb_per_image: float  # read and written by all kernels
    arch: str = "short"
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    stem_blocks: str = "auto"


# If a change moves these numbers, say why where it is reviewed. More launches or more MB an image are a slower step.
CASES = {
    "t4": Case(75, 167, 37, 170.5),
    "a100": Case(80, 173, 37, 171.1, train={"label_smoothing": 0.1}),
    "h100": Case(90, 528, 109, 402.3, arch="resnet50"),
    "h100_published_stem": Case(90, 173, 37, 170.7, stem_blocks="false"),
    "b200": Case(100, 175, 37, 171.2),
}


@pytest.mark.parametrize("name", CASES)
def test_code_passes_ptxas_and_has_the_recorded_launches_and_traffic(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_or_fail_with_another_torch()
    monkeypatch.setattr(torchvision.models, "short", SHORT, raising=False)
    case, options = CASES[name], Train(**CASES[name].train)
    with fake_inductor(case.architecture, assemble=True) as (device, generated):
        dtype = resnet.amp_dtype("auto", device)
        blocks = resnet.stem_on_blocks(case.stem_blocks, dtype, device)
        net = resnet.build(case.arch, 1000, init_bn0=True, stem_blocks=blocks).to(device)
        net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        predict = Predictor(net, dtype, device)
        step = TrainStep(LossModule(predict, options.label_smoothing), optimizer, options)
        # The backward pass is compiled when it first runs, which it does not here.
        with functorch_config.patch(force_non_lazy_backward_lowering=True), pytest.raises(NotRun):
            step.prepare(PX, BATCH, device)
    assert generated.graphs == 2  # forward and backward
    assert generated.assembled
    mb_per_image = round(generated.bytes_accessed / BATCH / 1e6, 1)
    found = dataclasses.replace(
        case,
        triton_launches=generated.triton_launches,
        library_launches=generated.library_launches,
        mb_per_image=mb_per_image,
    )
    assert found == case
