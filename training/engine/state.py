"""The state of a training run in one process: model, optimizer and progress, saved to and restored from checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_tools.common.files import warn_on_write_error
from data_tools.common.options import OptionError
from training.config.datasets import Datasets
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase
from training.engine.distributed import Preempted, World, accumulation_steps
from training.engine.metrics import NO_SUMS
from training.engine.step import LossModule, MixupCutmix, Predictor, TrainStep, begin_momentum, compile_mode
from training.engine.stop_signals import StopSignals
from training.model import checkpoint, resnet
from training.model.moving_average import MovingAverage
from training.runlog.epoch_table import Scores


@dataclass(slots=True)
class Progress:
    """How far a run is: ``batch`` batches into epoch ``epoch``, with metric sums ``sums``; ``seconds`` on the clock;
    ``scores`` of the last complete epoch and its number. All that changes in a run besides the tensors."""

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: list(NO_SUMS))
    images_seen: int = 0
    seconds: float = 0.0
    best_top5: float = -1.0
    scores: dict[str, float] = field(default_factory=dict)


class TrainState:
    """``step`` trains ``model``, ``predict`` evaluates it, ``averaged`` evaluates its moving average, if any."""

    def __init__(self, config: RunConfig, datasets: Datasets, world: World) -> None:
        self.config, self.datasets, self.world = config, datasets, world
        self.schedule = config.schedule.parsed
        self.progress = Progress()
        self.accumulation_steps = accumulation_steps(config.dist, world.ranks)
        torch.manual_seed(config.run.seed)
        net, train = config.model, config.train
        self.model = resnet.build(net.arch, len(datasets.classes), net.init_bn0, net.blurpool).to(world.device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            resnet.parameter_groups(self.model, train.weight_decay, train.decay_norm, train.decay_bias),
            lr=0.0,
            momentum=train.momentum,
            nesterov=train.nesterov,
            fused=True,
        )
        dtype = resnet.amp_dtype(train.amp, world.device)
        loss_module = LossModule(Predictor(self.model, dtype, world.device), train.label_smoothing)
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
        if train.ema:
            self.ema = MovingAverage(self.model, train.ema)
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

    def is_sound(self) -> bool:
        """Whether training can continue from here: the last step was good and every weight is finite."""
        finite = torch.stack([torch.isfinite(weight).all() for weight in self.model.state_dict().values()])
        return not int(self.step.bad_steps) and bool(finite.all())

    def to_checkpoint(self, random: torch.Tensor) -> dict[str, Any]:
        """All that a continued run or an export needs; ``random`` holds every rank's generator state."""
        return {
            "fingerprint": fingerprint(self),
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

    def restore(self, saved: dict[str, Any], source: Path) -> None:
        """Continue from ``saved``. OptionError if it belongs to another config or other data."""
        now = fingerprint(self)
        before = saved["fingerprint"] | {"train.amp": _precision_of(saved, now["train.amp"])}
        differing = [key for key in now | before if before.get(key) != now.get(key)]
        if differing:
            shown = "; ".join(f"{key}: there {before.get(key)}, here {now.get(key)}" for key in differing)
            precision = f" (--train.amp={json.loads(before['train.amp'])})" if "train.amp" in differing else ""
            raise OptionError(
                f"{source}: of another run ({shown})",
                where="run.resume",
                remedy=f"restore those{precision}, or --run.resume=none to start anew",
            )
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        begin_momentum(self.optimizer)
        self.step.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        if len(saved["random"]) == self.world.ranks:
            # A copy, since set_rng_state ignores that a row is an offset into its storage.
            torch.set_rng_state(saved["random"][self.world.rank].clone())


def fingerprint(state: TrainState) -> dict[str, str]:
    """What must be the same for a run to continue: every option that affects the result, and the data.

    ``train.amp`` is there as the precision that it means on this device. The number of processes that share the global
    batch is not part of it: it only affects rounding.
    """
    options = as_mapping(state.config)
    relevant = {f"{section}.{key}": value for section in ("model", "train") for key, value in options[section].items()}
    relevant |= {"run.seed": options["run"]["seed"], "train.amp": resnet.amp_name(state.predict.dtype)}
    relevant |= {f"data.{key}": options["data"][key] for key in ("page_window", "augment")}
    relevant["GPUs in the global batch"] = state.accumulation_steps * state.world.ranks
    texts = {key: json.dumps(value) for key, value in relevant.items()}
    texts["schedule"] = hashlib.sha256(repr(state.schedule).encode()).hexdigest()[:16]
    return texts | {name: manifest.digest for name, manifest in state.datasets.manifests.items()}


def _precision_of(saved: dict[str, Any], here: str) -> str:
    """``train.amp`` of a checkpoint's fingerprint. Earlier versions wrote ``auto`` without saying what that meant.

    It was fp16 if there is a gradient scale. If not, bf16 or fp32, and the one ``here`` is taken to be it.
    """
    written: str = saved["fingerprint"].get("train.amp", '"auto"')
    if written != '"auto"':
        return written
    if saved["scaler"]:
        return '"fp16"'
    return '"bf16"' if here == '"fp16"' else here


def save_within_epoch(state: TrainState, signals: StopSignals, stop: bool) -> None:
    """Save ``last.pt`` and, if ``stop``, end the run; every process must call it.

    ``state.progress`` holds the position in the epoch and the metric sums of all processes.
    """
    random = signals.every_rank(torch.get_rng_state())
    signals.saved()
    if state.world.is_main and state.is_sound():
        # A checkpoint that cannot be written is an error if the run stops, else only a warning.
        with contextlib.nullcontext() if stop else warn_on_write_error(checkpoint.LAST):
            checkpoint.save_last(state.config.run.dir, state.to_checkpoint(random))
    if stop:
        _stop(state, f"batch {state.progress.batch} of epoch {state.progress.epoch + 1}")


def end_of_epoch(state: TrainState, scores: Scores, averaged: Scores | None, signals: StopSignals) -> None:
    """Save ``last.pt``, and ``best.pt`` if top-5 is the best so far; stop if asked to. Every process must call it."""
    state.progress.scores = {"epoch": state.progress.epoch, **asdict(scores)}
    if averaged is not None:
        state.progress.scores |= {f"ema_{key}": value for key, value in asdict(averaged).items()}
    best = scores.top5 > state.progress.best_top5
    state.progress.best_top5 = max(scores.top5, state.progress.best_top5)
    random = signals.every_rank(torch.get_rng_state())
    signals.saved()
    if state.world.is_main and state.is_sound():
        saved = state.to_checkpoint(random)
        is_last = state.progress.epoch == state.schedule.epochs
        with contextlib.nullcontext() if is_last else warn_on_write_error(checkpoint.LAST):
            checkpoint.save_last(state.config.run.dir, saved)
            if best:
                checkpoint.save(state.config.run.dir / checkpoint.BEST, saved)
    stop, _ = signals.poll()
    if stop and state.progress.epoch < state.schedule.epochs:
        _stop(state, f"the end of epoch {state.progress.epoch}")


def _stop(state: TrainState, where: str) -> NoReturn:
    if state.world.ranks > 1:
        dist.barrier()  # no process exits before the checkpoint is written
    raise Preempted(f"stopped at {where}; the same command continues from {state.config.run.dir}")
