"""The step that trains, against a plain loop with torchvision's network, on the same batches in double precision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from benchmarks import plain_training
from training.config.schedule import Schedule
from training.config.train_config import Train
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import optimizer, resnet

CPU, CLASSES, BATCHES = torch.device("cpu"), 10, 8
ARCH = "resnet10"  # half a ResNet-18, because convolutions in double precision are slow
OPTIONS = Train(weight_decay=0.05, label_smoothing=0.1)
PHASES = [  # (px, batch, rates of its epoch)
    {
        "epochs": [0, 1],
        "px": 24,
        "batch_per_gpu": 8,
        "data": "160",
        "lr": [{"epochs": [0, 1], "from": 0.01, "to": 0.1}],
    },
    {"epochs": [1, 2], "px": 32, "batch_per_gpu": 6, "data": "160", "lr": [{"epochs": [1, 2], "from": 0.1, "to": 0.0}]},
]
SCHEDULE = Schedule.model_validate({"phases": PHASES})


def batches(px: int, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(px)
    return [
        (
            torch.randint(0, 256, (batch, 3, px, px), dtype=torch.uint8, generator=draw),
            torch.randint(0, CLASSES, (batch,), generator=draw),
        )
        for _ in range(BATCHES)
    ]


@pytest.fixture
def two_alike(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module]:
    """The network that is trained, and torchvision's own, with the same weights in double precision."""
    monkeypatch.setattr(
        torchvision.models, ARCH, lambda **options: ResNet(BasicBlock, [1] * 4, **options), raising=False
    )
    torch.manual_seed(3)
    ours, theirs = resnet.build(ARCH, CLASSES, init_bn0=True), plain_training.network(ARCH, CLASSES)
    theirs.load_state_dict(ours.state_dict())
    return ours.double().to(memory_format=torch.channels_last), theirs.double()


def test_losses_and_weights_are_those_of_a_plain_loop(two_alike: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = two_alike
    sgd = optimizer.build(ours, OPTIONS, highest_lr=SCHEDULE.highest_lr)
    step = TrainStep(LossModule(Predictor(ours, torch.float64, CPU), OPTIONS.label_smoothing), sgd, OPTIONS)
    plain = torch.optim.SGD(plain_training.groups(theirs, OPTIONS.weight_decay), lr=0.0, momentum=OPTIONS.momentum)
    criterion = nn.CrossEntropyLoss(label_smoothing=OPTIONS.label_smoothing)
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for epoch, phase in enumerate(SCHEDULE.phases):
        ours.train()
        theirs.train()
        for number, (images, labels) in enumerate(batches(phase.px, phase.batch_per_gpu), start=1):
            lr = SCHEDULE.lr(epoch, number, BATCHES)
            loss = step(images.contiguous(memory_format=torch.channels_last), labels, lr, MetricSums(CPU))
            for group in plain.param_groups:
                group["lr"] = lr
            expected = criterion(theirs((images.double() / 255 - mean) / std), labels)
            plain.zero_grad()
            expected.backward()
            plain.step()
            torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-5)
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
