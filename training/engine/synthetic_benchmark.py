"""Benchmark of training steps alone, on synthetic images that are on the device already."""

import time

import torch

from training.config.run_config import RunConfig
from training.config.train_config import Model, Train
from training.distributed.world import World, use_cuda
from training.engine.build import build_step
from training.engine.metrics import MetricSums
from training.model.moving_average import MovingAverage

CLASSES = 1000


class SyntheticRun:
    """Repeats ``step`` on one random batch of ``batch`` images of ``px`` x ``px``."""

    def __init__(self, net: Model, train: Train, px: int, batch: int, device: torch.device) -> None:
        self.step = build_step(net, train, CLASSES, World(device=device), highest_lr=1e-3)
        self.steps = 0
        self.ema = MovingAverage(self.step.model, train.ema, train.ema_every) if train.ema else None
        self.step.prepare(px, batch, device)
        images = torch.randint(0, 256, (batch, 3, px, px), dtype=torch.uint8, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (batch,), device=device)
        self.sums = MetricSums(device)
        self.step.model.train()

    def __call__(self) -> None:
        self.step(self.images, self.labels, 1e-3, self.sums, key=self.steps)
        if self.ema is not None:
            self.ema.update(self.step.model)
        self.steps += 1


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(config: RunConfig, px: int, batch: int, steps: int = 20) -> tuple[float, float]:
    """Seconds until the first step, compiling included, and seconds per image over ``steps`` steps of the run's network
    and options, after two to warm up."""
    device = torch.device("cuda" if use_cuda(config.dist) else "cpu")
    torch.backends.cudnn.benchmark = True
    began = time.perf_counter()
    run = SyntheticRun(config.model, config.train, px, batch, device)
    synchronise(device)
    start_s = time.perf_counter() - began
    for _ in range(2):
        run()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        run()
    synchronise(device)
    return start_s, (time.perf_counter() - began) / (steps * batch)
