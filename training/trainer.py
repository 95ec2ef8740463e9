"""The epochs of a run."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from pathlib import Path

import torch

from data_tools.common.options import OptionError
from training.config import datasets as inputs
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.engine import distributed
from training.engine import run_logger as runlog
from training.engine.distributed import EXIT_PREEMPTED, Preempted
from training.engine.evaluate import Abandoned, evaluate
from training.engine.metrics import NO_SUMS, Tally, scores_of
from training.engine.phase_loaders import PhaseLoaders, Upcoming, check_betons, place_of, val_loader
from training.engine.run_logger import RunLog
from training.engine.state import Job, end_of_epoch, save_within_epoch
from training.engine.stop_signals import Wishes
from training.engine.throughput import StepClock, bottleneck, forward_flops, profiled
from training.loader.loaders import TrainLoader
from training.loader.sample_order import batch_key
from training.model import checkpoint, weights
from training.runlog import console
from training.runlog.epoch_table import Scores, Speed

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
            check_betons(job)
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
    loader = val_loader(job.config, job.inputs, phase, **place_of(job))
    scores = evaluate(job.predict, loader, job.place)
    loader.close()
    if job.place.is_main:
        console.say_scores(job.config.run, scores, phase.val_px, f"val_{phase.val_data}", phase.rectangular)


def fit(job: Job, wishes: Wishes) -> None:
    """Every epoch that is left: train, validate, write down."""
    if job.progress.epoch == job.schedule.epochs:
        if job.place.is_main:
            console.say_complete(job.config.run, job.schedule.epochs)
        return
    _warn_of_another_batch(job)
    log = runlog.begin(job, wishes)
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
            log.epoch_begins(phase, training.batches, job.global_batch(phase))
        trained, speed = train_epoch(job, training, epoch, flops, wishes, log)
        began = time.perf_counter()
        try:
            scores = evaluate(job.predict, validation, job.place, wishes)
            eval_seconds = time.perf_counter() - began
            averaged = evaluate(job.averaged, validation, job.place, wishes) if job.averaged is not None else None
        except Abandoned:
            save_within_epoch(job, wishes, stop=True)
            raise
        job.progress.seconds += eval_seconds
        job.progress.epoch, job.progress.batch, job.progress.sums = epoch + 1, 0, list(NO_SUMS)
        lr = job.schedule.lr(epoch, training.batches, training.batches)
        if log is not None:
            log.epoch_done(runlog.row_of(job, phase, lr, trained, scores, averaged, speed), eval_seconds)
        end_of_epoch(job, scores, averaged, wishes)
    if job.place.is_main and not math.isnan(speed.step_p50_ms):
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
                    log.batches_done(lr, scores, clock)
            if save:
                progress.sums = total.over_ranks(job.place)
                save_within_epoch(job, wishes, stop)
            asked = time.perf_counter()
        speed = clock.speed((loader.batches - start) * loader.batch, flops)
    progress.seconds = seconds_before + clock.elapsed()
    progress.sums = total.over_ranks(job.place)
    return scores_of(progress.sums), speed


def check_finite(job: Job, epoch: int, batch: int, lr: float, px: int) -> None:
    """Diverged where the steps since the last look hold ``train.max_bad_steps`` bad ones in a row."""
    if int(job.step.most_bad_steps) >= job.config.train.max_bad_steps:
        raise Diverged(
            f"no finite loss or gradient for {int(job.step.most_bad_steps)} steps in a row, up to batch {batch} "
            f"of epoch {epoch + 1} at {px} px, lr {lr:.6g}; the last good checkpoint is in {job.config.run.dir}; "
            "lower the learning rate, or try train.loss_scale=dynamic or train.amp=bf16"
        )
