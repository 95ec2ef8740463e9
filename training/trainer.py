"""Build a run and go through its epochs."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training import checkpoint, distributed, inputs, model
from training.config import RunConfig, as_mapping
from training.distributed import World
from training.evaluate import evaluate
from training.inputs import Inputs
from training.loaders import TrainLoader, ValLoader, usable_cores
from training.metrics import Scores, Tally
from training.phases import Phase, Schedule
from training.runlog import EpochRow, RunLog
from training.step import Predictor, TrainStep

LOG_EVERY_BATCHES = 20  # reading the counts waits for the device


@dataclass(slots=True)
class Progress:
    """How far a run is. All that changes in a run besides the tensors."""

    epoch: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    best_top5: float = -1.0


class Job:
    """One process's share of a training run: the model, what updates it, and how far it is."""

    def __init__(self, config: RunConfig, found: Inputs, place: World) -> None:
        self.config = config
        self.inputs = found
        self.place = place
        self.schedule: Schedule = config.schedule.build()
        self.progress = Progress()
        torch.manual_seed(config.run.seed)
        self.model = model.build(config.model.arch, len(found.classes), config.model.init_bn0)
        self.model.to(place.device).to(memory_format=torch.channels_last)
        dtype = model.amp_dtype(config.train.amp, place.device)
        options = config.train
        self.optimizer = torch.optim.SGD(
            model.parameter_groups(self.model, options.weight_decay, options.decay_norm, options.decay_bias),
            lr=0.0,
            momentum=options.momentum,
            nesterov=options.nesterov,
            fused=True,
        )
        self.step = TrainStep(Predictor(self._parallel(), dtype, place.device), self.optimizer, options)
        self.predict = Predictor(self.model, dtype, place.device)

    def _parallel(self) -> nn.Module:
        if self.place.ranks == 1:
            return self.model
        ids = [self.place.local_rank] if self.place.device.type == "cuda" else None
        # BatchNorm statistics stay local, as published; evaluate() shares them when they matter.
        return DistributedDataParallel(
            self.model,
            device_ids=ids,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )

    def state(self) -> dict[str, Any]:
        """All that a continued run needs, as tensors and plain values."""
        return {
            "fingerprint": fingerprint(self.config, self.inputs, self.place),
            "classes": list(self.inputs.classes),
            "arch": self.config.model.arch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """Continue from ``state``. ValueError where it belongs to another config or other data."""
        differing = {
            key: (state["fingerprint"].get(key), value)
            for key, value in fingerprint(self.config, self.inputs, self.place).items()
            if state["fingerprint"].get(key) != value
        }
        if differing:
            shown = "; ".join(f"{key}: there {there}, here {here}" for key, (there, here) in differing.items())
            raise ValueError(
                f"{source}: made by another run ({shown}); restore those, or --run.resume=none to start anew"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


def fingerprint(config: RunConfig, found: Inputs, place: World) -> dict[str, str]:
    """What must be the same for a run to go on: every option that shapes the result, and the data."""
    options = as_mapping(config)
    shaping = {f"{s}.{k}": v for s in ("model", "train") for k, v in options[s].items()}
    shaping["run.seed"] = options["run"]["seed"]
    schedule = json.dumps(repr(config.schedule.build()))
    marks = {key: json.dumps(value) for key, value in shaping.items()}
    marks["processes"] = str(place.ranks)  # the global batch follows from it
    marks["schedule"] = hashlib.sha256(schedule.encode()).hexdigest()[:16]
    return marks | {name: m.digest for name, m in found.manifests.items()}


def run(config: RunConfig) -> int:
    """Train, or validate a checkpoint, in this process; every process of the run calls it. The exit status."""
    found = inputs.read(config.data.dir, config.schedule.build())
    with distributed.world(config.dist) as place:
        torch.use_deterministic_algorithms(config.run.deterministic)
        torch.backends.cudnn.benchmark = not config.run.deterministic
        torch.set_float32_matmul_precision("high")  # TF32 for what stays fp32
        inputs.check_batches(found, config.schedule.build(), place.ranks)
        job = Job(config, found, place)
        if config.run.checkpoint is not None:
            _print_scores(job, config.run.checkpoint)
        else:
            _resume(job)
            fit(job)
    return 0


def _resume(job: Job) -> None:
    wanted = job.config.run.resume
    if wanted == "none":
        return
    path = job.config.run.dir / "last.pt" if wanted == "auto" else Path(wanted)
    if wanted != "auto" or path.exists():
        job.restore(checkpoint.load(path), path)


def _print_scores(job: Job, path: Path) -> None:
    state = checkpoint.load(path)
    if state["classes"] != list(job.inputs.classes):
        raise ValueError(f"{path}: trained on other classes than {job.inputs.folder} holds")
    job.model.load_state_dict(state["model"])
    phase = job.schedule.phases[-1]
    loader = val_loader(job, phase)
    scores = evaluate(job.predict, loader, job.place)
    loader.close()
    if job.place.is_main:
        kind = "rectangles" if phase.rectangular else "squares"
        print(
            f"{path}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
            f"({scores.images} images, {phase.px} px {kind} of val_{phase.val_data})"
        )


def train_loader(job: Job, phase: Phase) -> TrainLoader:
    return TrainLoader(
        job.inputs.beton(f"train_{phase.data}"),
        px=phase.px,
        batch=phase.batch_per_gpu,
        min_scale=phase.min_scale,
        seed=job.config.run.seed,
        rank=job.place.rank,
        ranks=job.place.ranks,
        workers=_workers(job),
        device=job.place.device,
        classes=len(job.inputs.classes),
    )


def val_loader(job: Job, phase: Phase) -> ValLoader:
    return ValLoader(
        job.inputs.beton(f"val_{phase.val_data}"),
        px=phase.px,
        batch=phase.val_batch,
        rectangular=phase.rectangular,
        rank=job.place.rank,
        ranks=job.place.ranks,
        workers=_workers(job),
        device=job.place.device,
    )


def _workers(job: Job) -> int:
    return job.config.data.workers or max(1, usable_cores() // job.place.local_ranks)


def fit(job: Job) -> None:
    """Every epoch that is left: train, validate, write down."""
    if job.progress.epoch == job.schedule.epochs:
        if job.place.is_main:
            print(f"{job.config.run.dir}: complete after {job.schedule.epochs} epochs; --run.resume=none starts anew")
        return
    log = RunLog(job.config, job.progress.epoch, job.progress.images_seen) if job.place.is_main else None
    try:
        for phase in job.schedule.phases:
            if phase.end > job.progress.epoch:
                fit_phase(job, phase, log)
    finally:
        if log is not None:
            log.close()


def fit_phase(job: Job, phase: Phase, log: RunLog | None) -> None:
    """The epochs of ``phase`` that are left. The clock stands still while its loaders are made."""
    training, validation = train_loader(job, phase), val_loader(job, phase)
    try:
        for epoch in range(max(phase.start, job.progress.epoch), phase.end):
            began = time.perf_counter()
            if log is not None:
                global_batch = phase.batch_per_gpu * job.place.ranks
                log.epoch_begins(epoch, training.batches, phase, global_batch, job.progress.images_seen)
            trained = train_epoch(job, training, epoch, log)
            train_seconds = time.perf_counter() - began
            scores = evaluate(job.predict, validation, job.place)
            seconds = time.perf_counter() - began
            job.progress.epoch += 1
            job.progress.seconds += seconds
            row = EpochRow(
                epoch=job.progress.epoch,
                hours=job.progress.seconds / 3600,
                top1=scores.top1,
                top5=scores.top5,
                train_loss=trained.loss,
                lr=job.schedule.lr(epoch, training.batches, training.batches),
                images_per_s=trained.images / train_seconds,
                px=phase.px,
            )
            if log is not None:
                log.epoch_done(row, scores, seconds - train_seconds, job.progress.images_seen)
            save(job, scores)
    finally:
        training.close()
        validation.close()


def train_epoch(job: Job, loader: TrainLoader, epoch: int, log: RunLog | None) -> Scores:
    """One pass over the training images; the scores of the batches as they were trained on."""
    job.model.train()
    total, recent = Tally(job.place.device), Tally(job.place.device)
    global_batch = loader.batch * job.place.ranks
    lap, waited, asked = time.perf_counter(), 0.0, time.perf_counter()
    laps = 0
    with loader.epoch(epoch) as batches:
        for batch, (images, labels) in enumerate(batches, start=1):
            waited += time.perf_counter() - asked
            lr = job.schedule.lr(epoch, batch, loader.batches)
            job.step(images, labels, lr, recent)
            job.progress.images_seen += global_batch
            laps += 1
            if batch % LOG_EVERY_BATCHES == 0 or batch == loader.batches:
                scores = recent.scores(job.place)
                total.sums += recent.sums
                recent = Tally(job.place.device)
                now = time.perf_counter()
                if log is not None:
                    log.batches_done(batch, lr, scores, (now - lap) / laps, waited / laps, job.progress.images_seen)
                lap, waited, laps = now, 0.0, 0
            asked = time.perf_counter()
    return total.scores(job.place)


def save(job: Job, scores: Scores) -> None:
    """``last.pt`` after every epoch, and ``best.pt`` where top-5 is the best so far; by the main process."""
    best = scores.top5 > job.progress.best_top5
    job.progress.best_top5 = max(scores.top5, job.progress.best_top5)
    if job.place.is_main:
        state = job.state()
        checkpoint.save(job.config.run.dir / "last.pt", state)
        if best:
            checkpoint.save(job.config.run.dir / "best.pt", state)
