"""The epochs of a run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from data_tools.options import OptionError
from training import checkpoint, distributed, inputs, weights
from training.config import RunConfig
from training.distributed import EXIT_PREEMPTED, Preempted, sum_over_ranks
from training.evaluate import evaluate
from training.interrupt import Wishes
from training.job import Job
from training.loaders import TrainLoader
from training.metrics import Scores, Tally
from training.order import batch_key
from training.phase_loaders import PhaseLoaders, Upcoming, val_loader
from training.phases import Phase
from training.runlog import EpochRow, RunLog, survived
from training.speed import Speed, StepClock, bottleneck, forward_flops, profiled

LOG_EVERY_BATCHES = 20  # reading the counts waits for the device


class Diverged(RuntimeError):
    """Too many steps in a row gave no finite loss or gradient."""


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
    except Preempted as stopped:
        print(f"train_imagenet.py: {stopped}", file=sys.stderr)
        return EXIT_PREEMPTED
    return 0


def _run(config: RunConfig) -> None:
    found = inputs.read(config.data.dir, config.sets())
    with (
        distributed.world(config.dist) as place,
        Wishes(place, config.run.checkpoint_minutes, config.dist.timeout_minutes) as wishes,
    ):
        torch.use_deterministic_algorithms(config.run.deterministic)
        torch.backends.cudnn.benchmark = not config.run.deterministic
        torch.set_float32_matmul_precision("high")  # TF32 for what stays fp32
        job = Job(config, found, place)
        if config.run.checkpoint is not None:
            validate(job, config.run.checkpoint)
        else:
            _resume(job)
            fit(job, wishes)


def _resume(job: Job) -> None:
    wanted = job.config.run.resume
    if wanted == "none":
        return
    if wanted == "auto":
        found = checkpoint.load_newest(job.config.run.dir)
    else:
        found = checkpoint.load(Path(wanted)), Path(wanted)
    if found is not None:
        job.restore(*found)


def validate(job: Job, path: Path) -> None:
    """Print the scores of the weights at ``path``."""
    try:
        weights.load_into(job.model, weights.read(path), job.inputs.classes)
    except OptionError as error:
        raise OptionError(f"run.checkpoint: {error}") from None
    phase = job.config.evaluated()
    loader = val_loader(job, phase)
    scores = evaluate(job.predict, loader, job.place)
    loader.close()
    if job.place.is_main:
        kind = "rectangles" if phase.rectangular else "squares"
        print(
            f"{path}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
            f"({scores.images} images, {phase.val_px} px {kind} of val_{phase.val_data})"
        )


def fit(job: Job, wishes: Wishes) -> None:
    """Every epoch that is left: train, validate, write down."""
    if job.progress.epoch == job.schedule.epochs:
        if job.place.is_main:
            print(f"{job.config.run.dir}: complete after {job.schedule.epochs} epochs; --run.resume=none starts anew")
        return
    _warn_of_another_batch(job)
    log = RunLog(job.config, job.progress.epoch, job.progress.images_seen) if job.place.is_main else None
    try:
        with Upcoming(job) as upcoming:
            for phase in job.schedule.phases:
                if phase.end > job.progress.epoch:
                    with contextlib.closing(upcoming.take(phase)) as loaders:
                        fit_phase(job, phase, loaders, upcoming, wishes, log)
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


def fit_phase(
    job: Job, phase: Phase, loaders: PhaseLoaders, upcoming: Upcoming, wishes: Wishes, log: RunLog | None
) -> None:
    """The epochs of ``phase`` that are left. The clock stands still while the step is prepared for its shapes."""
    training, validation = loaders.training, loaders.validation
    net = job.config.model
    flops = forward_flops(net.arch, len(job.inputs.classes), phase.px, net.blurpool)
    job.step.prepare(phase.px, training.batch, job.place.device)
    for epoch in range(max(phase.start, job.progress.epoch), phase.end):
        if epoch == phase.end - 1:
            upcoming.begin(phase.end)
        if log is not None:
            log.epoch_begins(epoch, training.batches, phase, job.global_batch(phase), job.progress)
        trained, speed = train_epoch(job, training, epoch, flops, wishes, log)
        began = time.perf_counter()
        scores = evaluate(job.predict, validation, job.place)
        eval_seconds = time.perf_counter() - began
        averaged = evaluate(job.averaged, validation, job.place) if job.averaged is not None else None
        job.progress.seconds += eval_seconds
        job.progress.epoch, job.progress.batch = epoch + 1, 0
        lr = job.schedule.lr(epoch, training.batches, training.batches)
        if log is not None:
            row = EpochRow.of(job.progress, phase, lr, trained, scores, averaged, speed, job.place.ranks)
            log.epoch_done(row, eval_seconds, job.progress.images_seen)
        end_of_epoch(job, scores, averaged, wishes)
    if job.place.is_main:
        # The table is standard output's; what is said about it goes beside it.
        print(f"epochs {phase.start + 1}-{phase.end}, {phase.px} px: {bottleneck(speed)}", file=sys.stderr)


def train_epoch(
    job: Job, loader: TrainLoader, epoch: int, flops: float, wishes: Wishes, log: RunLog | None
) -> tuple[Scores, Speed]:
    """What is left of a pass over the training images; the scores of the batches as they were trained on, over the
    whole epoch, and how fast what was left went."""
    job.model.train()
    progress, device = job.progress, job.place.device
    total, recent = Tally(device), Tally(device)
    if job.place.is_main:
        total.load(progress.sums)
    start, seconds_before = progress.batch, progress.seconds
    profile = job.config.run.profile and job.place.is_main and epoch == job.schedule.phase(epoch).start
    trace = job.config.run.dir / f"trace_{loader.px}px_epoch{epoch + 1}.json.gz" if profile else None
    with loader.epoch(epoch, start) as batches, profiled(trace, loader.batches) as stepped:
        clock, asked = StepClock(device), time.perf_counter()
        for batch, (images, labels) in enumerate(batches, start=start + 1):
            clock.wait(asked)
            lr = job.schedule.lr(epoch, batch, loader.batches)
            job.step(images, labels, lr, recent, key=batch_key(job.config.run.seed, epoch, batch))
            if job.ema is not None:
                job.ema.update_parameters(job.model)
            clock.lap()
            stepped()
            progress.batch = batch
            progress.images_seen += loader.batch * job.place.ranks
            stop, save = wishes.agreed()
            if batch % LOG_EVERY_BATCHES == 0 or batch == loader.batches or save:
                scores = recent.scores(job.place)
                total.sums += recent.sums
                recent.sums.zero_()
                check_finite(job, epoch, batch, lr, loader.px)
                progress.seconds = seconds_before + clock.elapsed()
                if log is not None:
                    log.batches_done(batch, lr, scores, clock, progress.images_seen)
            if save:
                save_within_epoch(job, total, wishes, stop)
            asked = time.perf_counter()
        speed = clock.speed((loader.batches - start) * loader.batch, flops)
    progress.seconds = seconds_before + clock.elapsed()
    progress.sums = [0.0] * len(progress.sums)
    return total.scores(job.place), speed


def check_finite(job: Job, epoch: int, batch: int, lr: float, px: int) -> None:
    """Diverged where the steps since the last look hold ``train.max_bad_steps`` bad ones in a row."""
    if int(job.step.most_bad_steps) >= job.config.train.max_bad_steps:
        raise Diverged(
            f"no finite loss or gradient for {int(job.step.most_bad_steps)} steps in a row, up to batch {batch} "
            f"of epoch {epoch + 1} at {px} px, lr {lr:.6g}; the last good checkpoint is in {job.config.run.dir}; "
            "lower the learning rate, or try train.loss_scale=dynamic or train.amp=bf16"
        )


def save_within_epoch(job: Job, total: Tally, wishes: Wishes, stop: bool) -> None:
    """``last.pt`` as of now, and an end to the run if it is to ``stop``; every process calls it."""
    progress = job.progress
    progress.sums = sum_over_ranks(total.sums.clone(), job.place).tolist()
    random = wishes.every_rank(torch.get_rng_state())
    wishes.saved()
    if job.place.is_main and job.is_sound():
        # If it is to stop, a checkpoint that cannot be written is the end of the run; else the one before stays.
        with contextlib.nullcontext() if stop else survived(checkpoint.LAST):
            checkpoint.save_last(job.config.run.dir, job.state(random))
    if stop:
        _stopped(job, f"batch {progress.batch} of epoch {progress.epoch + 1}")


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
        _stopped(job, f"the end of epoch {job.progress.epoch}")


def _stopped(job: Job, where: str) -> None:
    if job.place.ranks > 1:
        dist.barrier()  # nobody leaves before the checkpoint is written
    raise Preempted(f"stopped at {where}; the same command continues from {job.config.run.dir}")
