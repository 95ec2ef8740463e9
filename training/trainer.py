"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from pathlib import Path

import torch

from data_tools.common.errors import UserError, print_error
from data_tools.common.options import OptionError
from data_tools.common.runtime import expendable_output
from data_tools.common.text import plural
from training.config.datasets import read_datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.distributed.stop_signals import StopSignals
from training.distributed.world import Preempted, max_over_ranks, world
from training.engine import checkpoints, run_logger
from training.engine.checkpoints import Diverged, end_of_epoch, last_good, save_within_epoch
from training.engine.evaluate import EvaluationStopped, evaluate
from training.engine.metrics import NO_SUMS, MetricSums, over_batch, scores_of
from training.engine.phase_loaders import PhaseLoaders, PhasePrefetcher, check_betons, loader_options, val_loader
from training.engine.run_logger import RunLog
from training.engine.state import TrainState, configure_torch
from training.engine.throughput import StepClock, bottleneck, forward_flops, profiled
from training.loader.loaders import TrainLoader
from training.loader.sample_order import batch_key
from training.model import weights
from training.runlog import console
from training.runlog.epoch_table import Scores, Speed

PROGRAM = "train_imagenet.py"
LOG_EVERY_BATCHES = 20  # reading the metrics waits for the device


def run(config: RunConfig) -> int:
    """Train, or validate a checkpoint, in this process; every process of the run calls it. Returns the exit
    status.

    An error that the user can fix is printed as one line; anything else is raised with its traceback.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0
    with expendable_output():
        try:
            _run(config)
        except (OptionError, Diverged) as error:  # raised in every process
            return print_error(PROGRAM, error) if is_main else error.status
        except UserError as error:
            status = print_error(PROGRAM, error)
            if "RANK" in os.environ:  # the others wait for this process, so the launcher must see it fail
                sys.exit(status)
            return status
        except Preempted as stopped:
            if is_main:
                print(f"{PROGRAM}: {stopped}", file=sys.stderr)
            return stopped.status
    return 0


def _run(config: RunConfig) -> None:
    datasets = read_datasets(config.data.dir, config.betons())
    with (
        world(config.dist) as this,
        StopSignals(this, config.run.checkpoint_minutes, config.dist.timeout_minutes) as signals,
    ):
        configure_torch(config.run)
        state = TrainState(config, datasets, this)
        if config.run.checkpoint is not None:
            validate(state, config.run.checkpoint, signals)
        else:
            check_betons(state)
            fit(state, signals, continued_from=checkpoints.resume(state, signals))


def validate(state: TrainState, path: Path, signals: StopSignals) -> None:
    """Print the scores of the weights at ``path``. Preempted if ``signals`` ask to stop."""
    try:
        found = weights.read(path)
        weights.load_into(state.model, found, state.datasets.classes)
    except OptionError as error:
        raise OptionError(str(error), where="run.checkpoint") from None
    if found.averaged and state.world.is_main:
        print(f"note: the averaged weights ({found.averaged}) that {path} also holds are not read", file=sys.stderr)
    phase = state.config.evaluated()
    loader = val_loader(state.config, state.datasets, phase, **loader_options(state))
    with contextlib.closing(loader):
        try:
            scores = evaluate(state.predict, loader, state.world, signals)
        except EvaluationStopped:
            raise Preempted("stopped; there are no scores", signals.number, saved=False) from None
    if state.world.is_main:
        console.print_scores(state.config, scores, phase.val_px, f"val_{phase.val_data}", phase.rectangular_val)


def fit(state: TrainState, signals: StopSignals, continued_from: Path | None = None) -> None:
    """Train and validate the remaining epochs; ``continued_from`` is the checkpoint that was restored."""
    if state.progress.epoch >= state.schedule.epochs:  # more: a shorter schedule was accepted
        if state.world.is_main:
            console.print_complete(state.config, state.progress.epoch)
        return
    _warn_of_another_batch(state)
    log = run_logger.begin(state, signals)
    if log is not None and continued_from is not None:
        console.print_continued(continued_from, state.progress.epoch + 1, state.progress.batch)
    try:
        with PhasePrefetcher(state) as prefetcher:
            for phase in state.schedule.phases:
                if phase.end > state.progress.epoch:
                    began = time.perf_counter()
                    with contextlib.closing(prefetcher.take(phase)) as loaders:
                        fit_phase(state, phase, loaders, prefetcher, signals, log, began)
    finally:
        if log is not None:
            log.close()
    if state.world.is_main:
        console.print_end(state.config, state.schedule.epochs)


def _warn_of_another_batch(state: TrainState) -> None:
    wanted, have = state.config.schedule.gpus, state.accumulation_steps * state.world.ranks
    if wanted != have and state.world.is_main:
        can_emulate = wanted % state.world.ranks == 0
        remedy = f"--dist.emulate_gpus={wanted} keeps" if can_emulate else f"{plural(wanted, 'process')} would keep"
        print(
            f"note: the learning rates are meant for {plural(wanted, 'GPU')}, and the global batch is that of {have}; "
            f"{remedy} the recipe's batch, or give rates for this batch",
            file=sys.stderr,
        )


def fit_phase(
    state: TrainState,
    phase: Phase,
    loaders: PhaseLoaders,
    prefetcher: PhasePrefetcher,
    signals: StopSignals,
    log: RunLog | None,
    asked: float,
) -> None:
    """The remaining epochs of ``phase``; its loaders were requested at the time ``asked``. Preparing the step for its
    shapes does not count as training time."""
    training, validation = loaders.training, loaders.validation
    net = state.config.model
    flops = forward_flops(net.arch, len(state.datasets.classes), phase.px, net.blurpool)
    compiled = state.step.prepare(phase.px, training.batch, state.world.device)
    if log is not None:
        log.phase_prepared(phase, time.perf_counter() - asked, compiled)
    for epoch in range(max(phase.start, state.progress.epoch), phase.end):
        if epoch == phase.end - 1:
            prefetcher.begin(phase.end)
        if log is not None:
            log.epoch_begins(phase, training.batches, state.global_batch(phase))
        trained, speed = train_epoch(state, training, epoch, flops, signals, log)
        if log is not None:
            log.validation_begins()
        began = time.perf_counter()
        try:
            scores = evaluate(state.predict, validation, state.world, signals)
            eval_seconds = time.perf_counter() - began
            averaged = (
                evaluate(state.averaged, validation, state.world, signals) if state.averaged is not None else None
            )
        except EvaluationStopped:
            save_within_epoch(state, signals, stop=True)
            raise
        state.progress.seconds += eval_seconds
        state.progress.epoch, state.progress.batch, state.progress.sums = epoch + 1, 0, list(NO_SUMS)
        lr = state.schedule.lr(epoch, training.batches, training.batches)
        if log is not None:
            log.epoch_done(run_logger.row_of(state, phase, lr, trained, scores, averaged, speed), eval_seconds)
        end_of_epoch(state, scores, averaged, signals)
    if state.world.is_main and not math.isnan(speed.step_p50_ms):
        # Standard output is for the table alone.
        print(f"{run_logger.described(phase)}: {bottleneck(speed)}", file=sys.stderr)


def train_epoch(
    state: TrainState, loader: TrainLoader, epoch: int, flops: float, signals: StopSignals, log: RunLog | None
) -> tuple[Scores, Speed]:
    """Train the rest of an epoch; returns its training scores, of the whole epoch, and the speed of the rest."""
    state.model.train()
    progress, device = state.progress, state.world.device
    total, recent = MetricSums(device), MetricSums(device)
    if state.world.is_main:
        total.load(progress.sums)
    losses: list[torch.Tensor] = []  # of the steps that are not logged yet
    start, seconds_before = progress.batch, progress.seconds
    profile = state.config.run.profile and state.world.is_main and epoch == state.schedule.phase(epoch).start
    trace = state.config.run.dir / f"trace_{loader.px}px_epoch{epoch + 1}.json.gz" if profile else None
    with loader.epoch(epoch, start) as batches, profiled(trace, loader.batches) as profiler_step:
        clock, asked = StepClock(device), time.perf_counter()
        for batch, (images, labels) in enumerate(batches, start=start + 1):
            clock.wait(asked)
            lr = state.schedule.lr(epoch, batch, loader.batches)
            momentum = state.schedule.momentum(epoch, batch, loader.batches)
            key = batch_key(state.config.run.seed, epoch, batch)
            losses.append(state.step(images, labels, lr, recent, key, momentum))
            if state.ema is not None:
                state.ema.update(state.model)
            clock.lap()
            profiler_step()
            progress.batch = batch
            progress.images_seen += loader.batch * state.world.ranks
            stop, save = signals.poll()
            if batch % LOG_EVERY_BATCHES == 0 or batch == loader.batches or save:
                scores = recent.scores(state.world)
                total.sums += recent.sums
                recent.sums.zero_()
                step_losses = over_batch(losses, state.world)
                losses.clear()
                if log is not None:
                    log.steps_done(step_losses)
                check_finite(state, epoch, batch, lr, loader.px)
                progress.seconds = seconds_before + clock.elapsed()
                if log is not None:
                    log.batches_done(lr, momentum, scores, clock)
            elif log is not None:
                log.batch_done()
            if save:
                progress.sums = total.over_ranks(state.world)
                save_within_epoch(state, signals, stop)
            asked = time.perf_counter()
        speed = clock.speed((loader.batches - start) * loader.batch, flops)
    progress.seconds = seconds_before + clock.elapsed()
    progress.sums = total.over_ranks(state.world)
    return scores_of(progress.sums), speed


def check_finite(state: TrainState, epoch: int, batch: int, lr: float, px: int) -> None:
    """Raise Diverged, in every process, if there were ``train.max_bad_steps`` bad steps in a row, or all steps of the
    run were bad."""
    bad = int(max_over_ranks(state.step.longest_bad_run, state.world))
    if bad >= min(state.config.train.max_bad_steps, state.total_steps()):
        raise Diverged(
            f"no finite loss or gradient for {bad} steps in a row, up to "
            f"batch {batch} of epoch {epoch + 1} at {px} px, lr {lr:.6g}; {last_good(state.config.run.dir)}",
            remedy="lower the learning rate (--run.accept_changes=schedule), or try --train.loss_scale=dynamic "
            "--run.accept_changes=train.loss_scale or --train.amp=bf16 --run.accept_changes=train.amp",
        )
