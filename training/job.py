"""One process's share of a training run: the model, what updates it, how far it is, and all of that as a state."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data_tools.options import OptionError
from training import model
from training.config import RunConfig, as_mapping
from training.distributed import World, parts
from training.inputs import Inputs
from training.metrics import NO_SUMS
from training.phases import Phase
from training.step import Mixing, Objective, Predictor, TrainStep, compile_mode


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
