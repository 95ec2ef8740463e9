"""The state of a training run in one process: model, optimizer and progress, saved to and restored from checkpoints."""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config.continuation import options_of_result
from training.config.datasets import Datasets
from training.config.preflight import accumulation_steps
from training.config.run_config import Run, RunConfig, as_mapping
from training.config.schedule import Phase, batches_per_epoch
from training.distributed.world import World
from training.engine.metrics import NO_SUMS
from training.engine.step import LossModule, MixupCutmix, Predictor, TrainStep, begin_momentum, compile_mode
from training.model import optimizer, resnet, weights
from training.model.moving_average import MovingAverage


def configure_torch(run: Run) -> None:
    """Set what torch keeps for the whole process, before anything is computed or compiled."""
    torch.use_deterministic_algorithms(run.deterministic)
    # Filling every torch.empty takes 95 ms for a host batch of 100 MB, and no memory is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not run.deterministic
    torch.set_float32_matmul_precision("high")  # TF32 for what remains fp32


@dataclass(slots=True)
class Progress:
    """How far a run is: ``batch`` batches into epoch ``epoch``, with metric sums ``sums``; ``seconds`` on the clock;
    ``scores`` of the last complete epoch and its number. All that changes in a run besides the tensors."""

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: list(NO_SUMS))
    images_seen: int = 0
    seconds: float = 0.0
    best: list[float] = field(default_factory=list)  # what decides, see `checkpoints.rank_of`; empty: no epoch yet
    scores: dict[str, float] = field(default_factory=dict)


class TrainState:
    """``step`` trains ``model``, ``predict`` evaluates it, ``averaged`` evaluates its moving average, if any."""

    def __init__(self, config: RunConfig, datasets: Datasets, world: World) -> None:
        self.config, self.datasets, self.world = config, datasets, world
        self.schedule = config.schedule
        self.progress = Progress()
        self.accumulation_steps = accumulation_steps(config.dist, world.ranks)
        torch.manual_seed(config.run.seed)
        net, train = config.model, config.train
        dtype = resnet.amp_dtype(train.amp, world.device)
        stem_blocks = resnet.stem_on_blocks(net.stem_blocks, dtype, world.device)
        self.model = resnet.build(
            net.arch, len(datasets.classes), net.init_bn0, net.blurpool, net.prior_bias, stem_blocks
        )
        self.model.to(world.device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = optimizer.build(
            self.model, train, highest_lr=self.schedule.highest_lr, momentum=self.schedule.momentum(0, 0, 1)
        )
        self.options = options_of_result(
            config,
            amp=resnet.amp_name(dtype),
            gpus=self.accumulation_steps * world.ranks,
            digests={name: manifest.digest for name, manifest in datasets.manifests.items()},
            classes=len(datasets.classes),
        )
        self.changes: list[dict[str, Any]] = []  # that were made when the run was continued
        loss_module = LossModule(Predictor(self.model, dtype, world.device), train.label_smoothing, train.loss)
        self.step = TrainStep(
            loss_module,
            self.optimizer,
            train,
            parallel=self._parallel(loss_module),
            accumulation_steps=self.accumulation_steps,
            mixing=MixupCutmix(train.mixup, train.cutmix, len(datasets.classes)),
            rank=world.rank,
            ranks=world.ranks,
        )
        self.predict = Predictor(self.model, dtype, world.device, flip=train.flip_tta)
        self.ema: MovingAverage | None = None
        self.averaged: Predictor | None = None
        if train.ema_decay:
            self.ema = MovingAverage(self.model, train.ema_decay, train.ema_every)
            self.averaged = Predictor(self.ema.module, dtype, world.device, flip=train.flip_tta)

    def _parallel(self, loss_module: LossModule) -> nn.Module:
        if self.world.ranks == 1:
            return loss_module
        on_gpu = self.world.device.type == "cuda"
        with warnings.catch_warnings():
            # The argument is renamed in torch 2.15; 2.11 does not have the new name.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            return DistributedDataParallel(
                loss_module,
                device_ids=[self.world.local_rank] if on_gpu else None,
                # BatchNorm statistics stay local, as published; evaluate() shares them.
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                # Not with compilation, which cuts the graph at the buckets, nor accumulation, whose graph changes.
                static_graph=self.accumulation_steps == 1
                and compile_mode(self.config.train, self.world.device.type, self.accumulation_steps) is None,
            )

    def global_batch(self, phase: Phase) -> int:
        return phase.batch_per_gpu * self.accumulation_steps * self.world.ranks

    def total_steps(self) -> int:
        """Steps of the whole run."""
        gpus = self.accumulation_steps * self.world.ranks
        batches = (
            (phase.end - phase.start) * batches_per_epoch(self.datasets.images(phase), phase.batch_per_gpu, gpus)
            for phase in self.schedule.phases
        )
        return sum(batches)

    def is_sound(self) -> bool:
        """Whether training can continue from here: every weight, statistic and momentum is finite."""
        tensors = [*self.model.state_dict().values()]
        tensors += [v for entry in self.optimizer.state.values() for v in entry.values() if isinstance(v, torch.Tensor)]
        return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())

    def to_checkpoint(self, random: torch.Tensor) -> dict[str, Any]:
        """All that a continued run or an export needs; ``random`` holds every rank's generator state."""
        return {
            "options": self.options,
            "changes": self.changes,
            "classes": list(self.datasets.classes),
            "arch": self.config.model.arch,
            "config": as_mapping(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "progress": asdict(self.progress),
            "random": random,
        }

    def begin_from(self, given: weights.Weights) -> None:
        """Begin with weights of another run, on this one's schedule."""
        new_fc = weights.begin_from(self.model, given, self.datasets.classes)
        if self.world.is_main:
            fc = f", but with a new fc layer for {len(self.datasets.classes)} classes" if new_fc else ""
            print(f"note: starting from the weights of {given.source}{fc}", file=sys.stderr)

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from ``saved``, with this run's options."""
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            if saved["ema"]:
                self.ema.load_state_dict(saved["ema"])
            else:  # the averages begin here
                self.ema.module.load_state_dict(saved["model"])
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group |= own  # an accepted change holds, not what the checkpoint had
        begin_momentum(self.optimizer)
        if saved["scaler"] and self.step.scaler.is_enabled() and self.step.fixed_scale is None:
            self.step.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        if len(saved["random"]) == self.world.ranks:
            # A copy, since set_rng_state ignores that a row begins at an offset in its storage.
            torch.set_rng_state(saved["random"][self.world.rank].clone())
