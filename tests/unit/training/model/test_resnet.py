"""The network, its parameter groups and one step, against torch's own pieces and numbers by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.config.run_config import Train
from training.engine.distributed import World
from training.engine.metrics import MetricSums
from training.engine.step import MEAN, STD, LossModule, Normalise, Predictor, TrainStep
from training.model import resnet

CPU = torch.device("cpu")
ALONE = World(rank=0, ranks=1, local_rank=0, local_ranks=1, device=CPU)


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 6),
    )


@pytest.mark.parametrize(("arch", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_init_bn0_zeroes_the_last_norm_of_every_block(arch: str, last: str) -> None:
    torch.manual_seed(0)
    net = resnet.build(arch, classes=10, init_bn0=True)
    blocks = [m for m in net.modules() if hasattr(m, last)]
    assert len(blocks) == {"resnet18": 8, "resnet50": 16}[arch]
    assert all(bool((getattr(block, last).weight == 0).all()) for block in blocks)
    assert bool((net.bn1.weight == 1).all())
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    plain = resnet.build(arch, classes=10, init_bn0=False)
    assert not any(bool((getattr(m, last).weight == 0).all()) for m in plain.modules() if hasattr(m, last))


def test_any_size_goes_in() -> None:
    net = resnet.build("resnet18", classes=7, init_bn0=True).eval()
    for height, width in ((64, 64), (96, 128), (33, 47)):
        assert net(torch.zeros(2, 3, height, width)).shape == (2, 7)


def test_norm_layers_do_not_decay_wherever_they_are() -> None:
    net = resnet.build("resnet50", classes=1000, init_bn0=True)
    decayed, spared = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=False, decay_bias=True))
    # torchvision's ResNet-50: 53 convolutions and the fc weight and bias; 53 BatchNorms, 4 of them "downsample.1".
    assert (len(decayed), len(spared)) == (55, 106)
    assert any(p is net.layer1[0].downsample[1].weight for p in spared)
    _, with_biases = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=False, decay_bias=False))
    assert len(with_biases) == 107
    everything, nothing = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=True, decay_bias=True))
    assert (len(everything), len(nothing)) == (161, 0)


def test_normalise_is_the_usual_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) / 255 for v in (MEAN, STD))
    expected = (images / 255 - mean) / std
    assert torch.allclose(Normalise(torch.float32, CPU)(images), expected, atol=1e-5)
    half = Normalise(torch.float16, CPU)(images)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), expected, atol=4e-3)


def test_normalise_keeps_channels_last() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert Normalise(torch.float32, CPU)(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_step_is_plain_sgd(smoothing: float) -> None:
    torch.manual_seed(1)
    ours = tiny()
    theirs = copy.deepcopy(ours)
    images, labels = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 5])
    options = Train()
    groups = resnet.parameter_groups(ours, 1e-2, decay_norm=False, decay_bias=True)
    loss_module = LossModule(Predictor(ours, torch.float32, CPU), smoothing)
    step = TrainStep(loss_module, torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True), options)
    norm, rest = list(theirs[1].parameters()), [*theirs[0].parameters(), *theirs[5].parameters()]
    reference = torch.optim.SGD(
        [{"params": rest, "weight_decay": 1e-2}, {"params": norm, "weight_decay": 0.0}], lr=0.5, momentum=0.9
    )
    sums = MetricSums(CPU)
    for _ in range(3):
        step(images, labels, 0.5, sums)
        reference.zero_grad()
        logits = theirs(Normalise(torch.float32, CPU)(images))
        nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing).backward()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    assert sums.scores(ALONE).images == 15


def test_fp16_with_a_static_scale_trains_as_fp32() -> None:
    torch.manual_seed(1)
    nets = [tiny()]
    nets.append(copy.deepcopy(nets[0]))
    images, labels = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8), torch.arange(8) % 6
    for net, dtype in zip(nets, (torch.float32, torch.float16), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        step = TrainStep(LossModule(Predictor(net, dtype, CPU), 0.0), optimizer, Train(loss_scale=1024))
        for _ in range(4):
            step(images, labels, 0.1, MetricSums(CPU))
    for full, short in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(full, short, atol=3e-2)


def test_static_scale_stays_and_skips_a_bad_step() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, fused=True)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), optimizer, Train(loss_scale=1024))
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    step(images, labels, 0.1, MetricSums(CPU))
    assert step.scaler.get_scale() == 1024.0
    moved = copy.deepcopy(net.state_dict())
    assert any(not torch.equal(before[key], moved[key]) for key in before)
    step.forward = lambda images, labels: (net(images.float()).sum() * float("inf"), net(images.float()))
    step(images, labels, 0.1, MetricSums(CPU))
    assert step.scaler.get_scale() == 1024.0
    assert all(torch.equal(moved[key], value) for key, value in net.state_dict().items())


def test_tally_counts() -> None:
    # Six classes; the label's rank in each row is 1, 2, 5, 6.
    logits = torch.tensor([[9.0, 0, 1, 2, 3, 4], [5, 9, 0, 1, 2, 3], [1, 2, 3, 4, 5, 9], [0, 2, 3, 4, 5, 9]])
    labels = torch.tensor([0, 0, 1, 0])
    sums = MetricSums(CPU)
    sums.add(logits, labels, torch.tensor(2.0))
    sums.add(logits[:1], labels[:1], torch.tensor(7.0))
    scores = sums.scores(ALONE)
    assert (scores.images, scores.top1, scores.top5) == (5, 40.0, 80.0)
    assert scores.loss == pytest.approx(3.0)


def test_tally_of_few_classes() -> None:
    sums = MetricSums(CPU)
    sums.add(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor(0.5))
    assert (sums.scores(ALONE).top1, sums.scores(ALONE).top5) == (50.0, 100.0)


def test_amp_dtype_on_a_cpu() -> None:
    assert resnet.amp_dtype("auto", CPU) == torch.float32
    assert resnet.amp_dtype("bf16", CPU) == torch.bfloat16
