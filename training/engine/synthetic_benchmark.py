"""Benchmark of training steps alone, on synthetic images that are on the device already."""

from __future__ import annotations

import time
from typing import Literal

import torch

from training.config.run_config import RunConfig
from training.config.train_config import Train
from training.distributed import world
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, MixupCutmix, Predictor, TrainStep
from training.model import optimizer, resnet
from training.model.moving_average import MovingAverage


class SyntheticRun:
    """Repeats ``step`` on one random batch of ``batch`` images of ``px`` x ``px``."""

    def __init__(
        self,
        arch: str,
        classes: int,
        px: int,
        batch: int,
        device: torch.device,
        options: Train,
        stem_blocks: bool | Literal["auto"] = "auto",
        blurpool: bool = False,
    ) -> None:
        dtype = resnet.amp_dtype(options.amp, device)
        blocks = resnet.stem_on_blocks(stem_blocks, dtype, device)
        net = resnet.build(arch, classes, init_bn0=True, blurpool=blurpool, stem_blocks=blocks).to(device)
        net.to(memory_format=torch.channels_last)
        predict = Predictor(net, dtype, device)
        loss_module = LossModule(predict, options.label_smoothing, options.loss)
        mixing = MixupCutmix(options.mixup, options.cutmix, classes)
        self.step = TrainStep(loss_module, optimizer.build(net, options, highest_lr=1e-3), options, mixing=mixing)
        self.net, self.steps = net, 0
        self.ema = MovingAverage(net, options.ema_decay, options.ema_every) if options.ema_decay else None
        self.step.prepare(px, batch, device)
        images = torch.randint(0, 256, (batch, 3, px, px), dtype=torch.uint8, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, classes, (batch,), device=device)
        self.sums = MetricSums(device)
        net.train()

    def __call__(self) -> None:
        self.step(self.images, self.labels, 1e-3, self.sums, key=self.steps)
        if self.ema is not None:
            self.ema.update(self.net)
        self.steps += 1


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(config: RunConfig, px: int, batch: int, steps: int) -> float:
    """Images a second over ``steps`` steps of the run's network and options, after two to warm up."""
    device = torch.device("cuda" if world.use_cuda(config.dist) else "cpu")
    torch.backends.cudnn.benchmark = True
    net = config.model
    run = SyntheticRun(net.arch, 1000, px, batch, device, config.train, net.stem_blocks, net.blurpool)
    for _ in range(2):
        run()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        run()
    synchronise(device)
    return steps * batch / (time.perf_counter() - began)
