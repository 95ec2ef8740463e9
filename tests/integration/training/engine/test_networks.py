"""Two seeded steps of a network of each family against recorded losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.config.train_config import Model, Train
from training.distributed.world import World
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import networks, optimizer

CPU = torch.device("cpu")
SINGLE = World(device=CPU)
CLASSES, STEPS, BATCH = 10, 2, 4
GOLDEN = Path(__file__).with_name("golden_network_losses.json")
# At 64 px, so that BatchNorms see more than one pixel of each image: the spread of two values alone amplifies rounding.
LIGHT = {"mobilenet_v3_small": 64, "regnet_y_400mf": 64, "efficientnet_b0": 64}
HEAVY = {"swin_t": 32, "convnext_tiny": 32, "alexnet": 64, "resnext50_32x4d": 64, "vit_b_32": 224, "vgg11": 32}
HEAVY |= {"shufflenet_v2_x0_5": 64, "squeezenet1_1": 64, "densenet121": 64, "mnasnet0_5": 64}
HEAVY["maxvit_t"] = 224


def losses(arch: str, px: int) -> list[float]:
    source = torch.Generator().manual_seed(7)
    torch.set_default_dtype(torch.float64)  # draws in it are the same on every processor
    torch.manual_seed(3)
    try:
        net = networks.build(Model(arch=arch), CLASSES)
    finally:
        torch.set_default_dtype(torch.float32)
    options = Train(decay_bias=False, weight_decay=0.05)
    step = TrainStep(
        LossModule(Predictor(net, torch.float64, CPU), 0.1),
        optimizer.build(net, options, highest_lr=0.0004),
        options,
        accumulation_steps=2,
    )
    net.train()
    found = []
    for number in range(STEPS):
        images = torch.randint(0, 256, (BATCH, 3, px, px), dtype=torch.uint8, generator=source)
        labels, sums = torch.randint(0, CLASSES, (BATCH,), generator=source), MetricSums(CPU)
        step(images, labels, 0.0002, sums, number)
        found.append(sums.scores(SINGLE).loss)
    return found


@pytest.mark.parametrize(
    ("arch", "px"), [*LIGHT.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in HEAVY.items())]
)
def test_steps_of_every_family_give_the_recorded_losses(arch: str, px: int) -> None:
    """In double precision, where sums in another order, as on another processor, differ far less than is compared."""
    assert losses(arch, px) == pytest.approx(json.loads(GOLDEN.read_text())[arch], rel=1e-7)


if __name__ == "__main__":  # PYTHONPATH=.:tests python THIS FILE: records the losses anew
    GOLDEN.write_text(json.dumps({arch: losses(arch, px) for arch, px in (LIGHT | HEAVY).items()}, indent=1) + "\n")
