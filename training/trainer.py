"""The epochs of a run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from data_tools.options import OptionError
from training import checkpoint, distributed, inputs
from training.config import RunConfig
from training.evaluate import evaluate
from training.job import Job
from training.loaders import TrainLoader, ValLoader, usable_cores
from training.metrics import Scores, Tally
from training.phases import Phase
from training.runlog import EpochRow, RunLog
from training.speed import Speed, StepClock, bottleneck, forward_flops, profiled

LOG_EVERY_BATCHES = 20  # reading the counts waits for the device


def run(config: RunConfig) -> int:
    """Train, or validate a checkpoint, in this process; every process of the run calls it. The exit status.

    A mistake of the user's ends in one line and 2; anything else is raised with its traceback.
    """
    try:
        _run(config)
    except OptionError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"train_imagenet.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(config: RunConfig) -> None:
    found = inputs.read(config.data.dir, config.schedule.build())
    with distributed.world(config.dist) as place:
        torch.use_deterministic_algorithms(config.run.deterministic)
        torch.backends.cudnn.benchmark = not config.run.deterministic
        torch.set_float32_matmul_precision("high")  # TF32 for what stays fp32
        job = Job(config, found, place)
        if config.run.checkpoint is not None:
            validate(job, config.run.checkpoint)
        else:
            _resume(job)
            fit(job)


def _resume(job: Job) -> None:
    wanted = job.config.run.resume
    if wanted == "none":
        return
    path = job.config.run.dir / "last.pt" if wanted == "auto" else Path(wanted)
    if wanted != "auto" or path.exists():
        job.restore(checkpoint.load(path), path)


def validate(job: Job, path: Path) -> None:
    """Print the scores of the weights at ``path`` by the last phase's rules."""
    state = checkpoint.load(path)
    if state["classes"] != list(job.inputs.classes) or state["arch"] != job.config.model.arch:
        raise OptionError(
            f"run.checkpoint: {path}: a {state['arch']} for other classes, or another network, than is asked for here"
        )
    job.model.load_state_dict(state["model"])
    phase = job.schedule.phases[-1]
    loader = val_loader(job, phase)
    scores = evaluate(job.predict, loader, job.place)
    loader.close()
    if job.place.is_main:
        kind = "rectangles" if phase.rectangular else "squares"
        print(
            f"{path}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
            f"({scores.images} images, {phase.val_px} px {kind} of val_{phase.val_data})"
        )


def train_loader(job: Job, phase: Phase) -> TrainLoader:
    return TrainLoader(
        job.inputs.beton(f"train_{phase.data}"),
        px=phase.px,
        batch=phase.batch_per_gpu * job.parts,
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
        px=phase.val_px,
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
    _warn_of_another_batch(job)
    log = RunLog(job.config, job.progress.epoch, job.progress.images_seen) if job.place.is_main else None
    try:
        for phase in job.schedule.phases:
            if phase.end > job.progress.epoch:
                fit_phase(job, phase, log)
    finally:
        if log is not None:
            log.close()


def _warn_of_another_batch(job: Job) -> None:
    wanted, have = job.config.schedule.gpus, job.parts * job.place.ranks
    if wanted != have and job.place.is_main:
        print(
            f"note: the learning rates are meant for {wanted} GPUs, and the global batch is that of {have}; "
            f"--dist.emulate_gpus={wanted} keeps the recipe's batch, or give rates for this one",
            file=sys.stderr,
        )


def fit_phase(job: Job, phase: Phase, log: RunLog | None) -> None:
    """The epochs of ``phase`` that are left. The clock stands still while they are prepared."""
    training, validation = train_loader(job, phase), val_loader(job, phase)
    net = job.config.model
    flops = forward_flops(net.arch, len(job.inputs.classes), phase.px, net.blurpool)
    job.step.prepare(phase.px, training.batch, job.place.device)
    try:
        for epoch in range(max(phase.start, job.progress.epoch), phase.end):
            began = time.perf_counter()
            if log is not None:
                log.epoch_begins(epoch, training.batches, phase, job.global_batch(phase), job.progress.images_seen)
            trained, speed = train_epoch(job, training, epoch, flops, log)
            train_seconds = time.perf_counter() - began
            scores = evaluate(job.predict, validation, job.place)
            eval_seconds = time.perf_counter() - began - train_seconds
            averaged = evaluate(job.averaged, validation, job.place) if job.averaged is not None else None
            job.progress.epoch += 1
            job.progress.seconds += train_seconds + eval_seconds
            lr = job.schedule.lr(epoch, training.batches, training.batches)
            if log is not None:
                row = EpochRow.of(job.progress, phase, lr, trained, scores, averaged, train_seconds, speed)
                log.epoch_done(row, eval_seconds, job.progress.images_seen)
            save(job, scores)
        if job.place.is_main:
            # The table is standard output's; what is said about it goes beside it.
            print(f"epochs {phase.start + 1}-{phase.end}, {phase.px} px: {bottleneck(speed)}", file=sys.stderr)
    finally:
        training.close()
        validation.close()


def train_epoch(job: Job, loader: TrainLoader, epoch: int, flops: float, log: RunLog | None) -> tuple[Scores, Speed]:
    """One pass over the training images; the scores of the batches as they were trained on, and how fast it went."""
    job.model.train()
    total, recent = Tally(job.place.device), Tally(job.place.device)
    global_batch = loader.batch * job.place.ranks
    profile = job.config.run.profile and job.place.is_main and epoch == job.schedule.phase(epoch).start
    trace = job.config.run.dir / f"trace_{loader.px}px_epoch{epoch + 1}.json.gz" if profile else None
    with loader.epoch(epoch) as batches, profiled(trace, loader.batches) as stepped:
        clock, asked = StepClock(job.place.device), time.perf_counter()
        for batch, (images, labels) in enumerate(batches, start=1):
            clock.wait(asked)
            lr = job.schedule.lr(epoch, batch, loader.batches)
            job.step(images, labels, lr, recent, key=step_key(job, epoch, batch))
            if job.ema is not None:
                job.ema.update_parameters(job.model)
            clock.lap()
            stepped()
            job.progress.images_seen += global_batch
            if batch % LOG_EVERY_BATCHES == 0 or batch == loader.batches:
                scores = recent.scores(job.place)
                total.sums += recent.sums
                recent.sums.zero_()
                if log is not None:
                    log.batches_done(batch, lr, scores, clock, job.progress.images_seen)
            asked = time.perf_counter()
        speed = clock.speed(loader.batches * loader.batch, flops)
    return total.scores(job.place), speed


def step_key(job: Job, epoch: int, batch: int) -> int:
    """A number of this process's batch alone, the same on every run of the same seed."""
    place = job.place
    return ((job.config.run.seed * 100_003 + epoch) * 1_000_003 + batch) * place.ranks + place.rank


def save(job: Job, scores: Scores) -> None:
    """``last.pt`` after every epoch, and ``best.pt`` where top-5 is the best so far; by the main process."""
    best = scores.top5 > job.progress.best_top5
    job.progress.best_top5 = max(scores.top5, job.progress.best_top5)
    if job.place.is_main:
        state = job.state()
        checkpoint.save(job.config.run.dir / "last.pt", state)
        if best:
            checkpoint.save(job.config.run.dir / "best.pt", state)
