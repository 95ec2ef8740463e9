"""One process's share of a training run: the model, what updates it, how far it is, and all of that as a state."""

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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data_tools.common.files import survived
from data_tools.common.options import OptionError
from training.config.datasets import Inputs
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase
from training.engine.distributed import Preempted, World, parts
from training.engine.metrics import NO_SUMS
from training.engine.step import Mixing, Objective, Predictor, TrainStep, compile_mode
from training.engine.stop_signals import Wishes
from training.model import checkpoint
from training.model import resnet as model
from training.runlog.epoch_table import Scores


@dataclass(slots=True)
class Progress:
    """How far a run is: ``batch`` batches into epoch ``epoch``, whose counts so far are ``sums``; ``seconds`` on the
    clock; ``scores``: of the last complete epoch, which they name. All that changes in a run besides the tensors."""

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: list(NO_SUMS))
    images_seen: int = 0
    seconds: float = 0.0
    best_top5: float = -1.0
    scores: dict[str, float] = field(default_factory=dict)


class Job:
    """``step`` trains ``model``, ``predict`` asks it, ``averaged`` asks its moving average where there is one."""

    def __init__(self, config: RunConfig, found: Inputs, place: World) -> None:
        self.config, self.inputs, self.place = config, found, place
        self.schedule = config.schedule.build()
        self.progress = Progress()
        self.parts = parts(config.dist, place.ranks)
        torch.manual_seed(config.run.seed)
        net, train = config.model, config.train
        self.model = model.build(net.arch, len(found.classes), net.init_bn0, net.blurpool).to(place.device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            model.parameter_groups(self.model, train.weight_decay, train.decay_norm, train.decay_bias),
            lr=0.0,
            momentum=train.momentum,
            nesterov=train.nesterov,
            fused=True,
        )
        dtype = model.amp_dtype(train.amp, place.device)
        objective = Objective(Predictor(self.model, dtype, place.device), train.label_smoothing)
        self.step = TrainStep(
            objective,
            self.optimizer,
            train,
            parallel=self._parallel(objective),
            parts=self.parts,
            mixing=Mixing(train.mixup, train.cutmix, len(found.classes)),
            rank=place.rank,
            ranks=place.ranks,
        )
        self.predict = Predictor(self.model, dtype, place.device, flip=train.flip_tta)
        self.ema: AveragedModel | None = None
        self.averaged: Predictor | None = None
        if train.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(train.ema), use_buffers=True)
            self.averaged = Predictor(self.ema.module, dtype, place.device, flip=train.flip_tta)

    def _parallel(self, objective: Objective) -> nn.Module:
        if self.place.ranks == 1:
            return objective
        on_gpu = self.place.device.type == "cuda"
        with warnings.catch_warnings():
            # From torch 2.15 on it has another name, which 2.11 does not know.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            return DistributedDataParallel(
                objective,
                device_ids=[self.place.local_rank] if on_gpu else None,
                # BatchNorm statistics stay local, as published; evaluate() shares them when they matter.
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                # A compiled graph is cut at the buckets, and an accumulated one changes from part to part.
                static_graph=self.parts == 1 and compile_mode(self.config.train, self.place.device.type) is None,
            )

    def global_batch(self, phase: Phase) -> int:
        return phase.batch_per_gpu * self.parts * self.place.ranks

    def is_sound(self) -> bool:
        """Whether the model can be trained on from here: no bad step just now, every weight finite."""
        finite = torch.stack([torch.isfinite(weight).all() for weight in self.model.state_dict().values()])
        return not int(self.step.bad_steps) and bool(finite.all())

    def state(self, random: torch.Tensor) -> dict[str, Any]:
        """All that a continued run or an export needs, as tensors and plain values; ``random``: every rank's generator
        state."""
        return {
            "fingerprint": fingerprint(self),
            "classes": list(self.inputs.classes),
            "arch": self.config.model.arch,
            "config": as_mapping(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "progress": asdict(self.progress),
            "random": random,
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """Continue from ``state``. OptionError where it belongs to another config or other data."""
        there, here = state["fingerprint"], fingerprint(self)
        differing = [key for key in here | there if there.get(key) != here.get(key)]
        if differing:
            shown = "; ".join(f"{key}: there {there.get(key)}, here {here.get(key)}" for key in differing)
            raise OptionError(
                f"run.resume: {source}: of another run ({shown}); restore those, or --run.resume=none to start anew"
            )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        if len(state["random"]) == self.place.ranks:
            # A copy: set_rng_state reads from the start of the storage, whatever row of it this is.
            torch.set_rng_state(state["random"][self.place.rank].clone())


def fingerprint(job: Job) -> dict[str, str]:
    """What must be the same for a run to go on: every option that shapes the result, and the data.

    Not among it: how many processes share the global batch, which changes nothing but rounding.
    """
    options = as_mapping(job.config)
    shaping = {f"{section}.{key}": value for section in ("model", "train") for key, value in options[section].items()}
    shaping |= {"run.seed": options["run"]["seed"], "data.page_window": options["data"]["page_window"]}
    shaping["GPUs in the global batch"] = job.parts * job.place.ranks
    marks = {key: json.dumps(value) for key, value in shaping.items()}
    marks["schedule"] = hashlib.sha256(repr(job.schedule).encode()).hexdigest()[:16]
    return marks | {name: found.digest for name, found in job.inputs.manifests.items()}


def save_within_epoch(job: Job, wishes: Wishes, stop: bool) -> None:
    """``last.pt`` as of now, and an end to the run if it is to ``stop``; every process calls it.

    The job's progress holds the place in the epoch and the counts so far, summed over all processes.
    """
    random = wishes.every_rank(torch.get_rng_state())
    wishes.saved()
    if job.place.is_main and job.is_sound():
        # If it is to stop, a checkpoint that cannot be written is the end of the run; else the one before stays.
        with contextlib.nullcontext() if stop else survived(checkpoint.LAST):
            checkpoint.save_last(job.config.run.dir, job.state(random))
    if stop:
        _stop(job, f"batch {job.progress.batch} of epoch {job.progress.epoch + 1}")


def end_of_epoch(job: Job, scores: Scores, averaged: Scores | None, wishes: Wishes) -> None:
    """``last.pt`` after every epoch, and ``best.pt`` where top-5 is the best so far; by the main process."""
    job.progress.scores = {"epoch": job.progress.epoch, **asdict(scores)}
    if averaged is not None:
        job.progress.scores |= {f"ema_{key}": value for key, value in asdict(averaged).items()}
    best = scores.top5 > job.progress.best_top5
    job.progress.best_top5 = max(scores.top5, job.progress.best_top5)
    random = wishes.every_rank(torch.get_rng_state())
    wishes.saved()
    if job.place.is_main and job.is_sound():
        state = job.state(random)
        over = job.progress.epoch == job.schedule.epochs
        with contextlib.nullcontext() if over else survived(checkpoint.LAST):
            checkpoint.save_last(job.config.run.dir, state)
            if best:
                checkpoint.save(job.config.run.dir / checkpoint.BEST, state)
    stop, _ = wishes.agreed()
    if stop and job.progress.epoch < job.schedule.epochs:
        _stop(job, f"the end of epoch {job.progress.epoch}")


def _stop(job: Job, where: str) -> NoReturn:
    if job.place.ranks > 1:
        dist.barrier()  # nobody leaves before the checkpoint is written
    raise Preempted(f"stopped at {where}; the same command continues from {job.config.run.dir}")
