"""The state of a training run in one process: model, optimizer and progress, saved to and restored from checkpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from training.config.continuation import options_of_result
from training.config.datasets import Datasets
from training.config.run_config import Run, RunConfig, as_mapping
from training.config.schedule import Phase
from training.distributed.world import World, gather
from training.engine.build import step_of_run
from training.engine.step import Predictor
from training.model import resnet
from training.model.moving_average import MovingAverage
from training.runlog.eta import WorkModel
from training.runlog.progress import Progress
from training.runlog.sessions import Session, as_plain, from_plain, session_here


def configure_torch(run: Run) -> None:
    """Set what torch keeps for the whole process, before anything is computed or compiled."""
    torch.use_deterministic_algorithms(run.deterministic)
    # Filling every torch.empty takes 95 ms for a host batch of 100 MB, and no memory is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not run.deterministic
    torch.set_float32_matmul_precision("high")  # TF32 for what remains fp32


class TrainState:
    """``step`` trains ``model``, ``predict`` evaluates it, ``averaged`` evaluates its moving average, if any."""

    def __init__(self, config: RunConfig, datasets: Datasets, world: World) -> None:
        self.config, self.datasets, self.world = config, datasets, world
        self.schedule = config.schedule
        self.progress = Progress()
        torch.manual_seed(config.run.seed)
        train = config.train
        self.step = step_of_run(config, len(datasets.classes), world)
        self.gpus = self.step.accumulation_steps * world.ranks  # that share the global batch
        self.images = {name: manifest.images for name, manifest in datasets.manifests.items()}  # by set (``train_160``)
        self.work = WorkModel(schedule=self.schedule, images=self.images, gpus=self.gpus)
        self.model, self.optimizer, dtype = self.step.model, self.step.optimizer, self.step.dtype
        self.options = options_of_result(
            config,
            amp=resnet.amp_name(dtype),
            gpus=self.gpus,
            digests={name: manifest.digest for name, manifest in datasets.manifests.items()},
            classes=len(datasets.classes),
        )
        self.changes: list[dict[str, Any]] = []  # that were made when the run was continued
        self.sessions: tuple[Session, ...] = ()
        self.predict = Predictor(self.model, dtype, world.device, flip=train.flip_tta)
        self.ema: MovingAverage | None = None
        self.averaged: Predictor | None = None
        if train.ema:
            self.ema = MovingAverage(self.model, train.ema, train.ema_every)
            self.averaged = Predictor(self.ema.module, dtype, world.device, flip=train.flip_tta)

    def global_batch(self, phase: Phase) -> int:
        return phase.batch_per_gpu * self.gpus

    def is_sound(self) -> bool:
        """Whether training can continue from here: every weight, statistic and momentum is finite."""
        tensors = [*self.model.state_dict().values(), *self.momenta().values()]
        return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())

    def momenta(self) -> dict[str, torch.Tensor]:
        """By parameter, all that the optimizer keeps from step to step; none without momentum."""
        state = ((name, self.optimizer.state[parameter]) for name, parameter in self.model.named_parameters())
        return {name: kept["momentum_buffer"] for name, kept in state if "momentum_buffer" in kept}

    def to_checkpoint(self) -> dict[str, Any]:
        """All that a continued run or an export needs."""
        return {
            "options": self.options,
            "changes": self.changes,
            "classes": list(self.datasets.classes),
            "arch": self.config.model.arch,
            "config": as_mapping(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "optimizer": self.momenta(),
            "scaler": self.step.scaler.state_dict(),
            "progress": asdict(self.progress),
            "sessions": as_plain(self.sessions),
        }

    def begin_session(self) -> None:
        on_gpu = self.world.device.type == "cuda"
        cards = gather(torch.cuda.get_device_name(self.world.device) if on_gpu else "", self.world)
        session = session_here(
            from_epoch=self.progress.epoch,
            from_hours=self.progress.seconds / 3600,
            processes=self.world.ranks,
            gpus=[name for name in cards if name],
            precision=str(resnet.amp_dtype(self.config.train.amp, self.world.device)).removeprefix("torch."),
            classes=len(self.datasets.classes),
            images=self.images,
        )
        self.sessions = (*self.sessions, session)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from ``saved``, with this run's options."""
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            if saved["ema"]:
                self.ema.load_state_dict(saved["ema"])
            else:  # the averages begin here
                self.ema.module.load_state_dict(saved["model"])
        own = self.momenta()
        for name in own.keys() & saved["optimizer"].keys():  # none if momentum begins here
            own[name].copy_(saved["optimizer"][name])
        if saved["scaler"] and self.step.scaler.is_enabled() and self.step.fixed_scale is None:
            self.step.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        self.changes, self.sessions = saved["changes"], from_plain(saved["sessions"])

    def tensors(self) -> Iterator[torch.Tensor]:
        """Weights, statistics, momenta and averages, in the same order in every process."""
        yield from self.model.state_dict().values()
        yield from self.momenta().values()
        if self.ema is not None:
            yield from self.ema.module.state_dict().values()

    def plain(self) -> dict[str, Any]:
        """What else a process needs of the main one to continue."""
        return {
            "progress": asdict(self.progress),
            "ema_steps": self.ema.steps if self.ema is not None else 0,
            "scaler": self.step.scaler.state_dict(),
        }

    def set_plain(self, values: Mapping[str, Any]) -> None:
        """Take over another process's `plain`."""
        self.progress = Progress(**values["progress"])
        if self.ema is not None:
            self.ema.steps = values["ema_steps"]
        if values["scaler"]:
            self.step.scaler.load_state_dict(values["scaler"])
