"""The story of a run, from its start or its checkpoint to the last epoch."""

import contextlib
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch

from data_tools.common.console import plural
from training.config.datasets import Datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.config.startup_checks import unusable_folder
from training.distributed.launcher import run_in_job
from training.distributed.stop_signals import StopSignals
from training.distributed.world import JobError, Preempted, World, from_main, max_over_ranks
from training.engine.evaluate import EvaluationStopped, evaluate
from training.engine.metrics import MetricSums, over_batch, scores_of
from training.engine.phase_loaders import PhasePrefetcher, check_betons
from training.engine.resume import last_good, resume, save
from training.engine.state import TrainState, configure_torch
from training.engine.throughput import StepClock, bottleneck, check_cpu_time, forward_flops, profiled
from training.loader.loaders import TrainLoader, ValLoader
from training.loader.sample_order import batch_key
from training.model import networks
from training.runlog import console
from training.runlog.epoch_table import EpochRow, Scores, Speed, tells_top5
from training.runlog.run_log import Log, Rates, RunLog, described

PROGRAM = "train_imagenet.py"
LOG_EVERY_BATCHES = 20  # reading the metrics waits for the device
MAX_BAD_STEPS = 10  # in a row, without a finite loss or finite gradients
AFTER_NAN = (
    "continue from it, with --run.accept_changes, at a lower learning rate, with --train.loss_scale=dynamic or with "
    "--train.amp=bf16"
)

logger = logging.getLogger(__name__)


def run(config: RunConfig, datasets: Datasets) -> int:
    """Train in this process; every process of the job calls it. Returns the exit status."""
    return run_in_job(PROGRAM, config, lambda world, signals: Trainer(config, datasets, world, signals).run())


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Scores of the weights, found in ``seconds``, and of the averaged weights if there are any."""

    scores: Scores
    averaged: Scores | None
    seconds: float


class Trainer:
    """A run in one of its processes; all of them call the same methods in the same order."""

    def __init__(self, config: RunConfig, datasets: Datasets, world: World, signals: StopSignals) -> None:
        configure_torch(config.run)
        self.config, self.schedule = config, config.schedule
        self.world, self.signals = world, signals
        networks.check_sizes(config.model, len(datasets.classes), config.schedule.phases)
        from_main(lambda: check_cpu_time(config, datasets, world), world)
        self.state = TrainState(config, datasets, world)
        check_betons(self.state)
        self.continued_from = resume(self.state)
        self.progress = self.state.progress
        self.log = Log()

    # ------------------------------------------------------------------------------------------------- the story
    def run(self) -> None:
        """Train and validate the epochs that are left."""
        if self.progress.epoch >= self.schedule.epochs:  # more: a shorter schedule was accepted
            if self.world.is_main:
                console.print_complete(self.config, self.progress.epoch)
            return
        self.note_another_batch()
        self.state.begin_session()
        from_main(self.open_log, self.world)
        try:
            with PhasePrefetcher(self.state) as prefetcher:
                for phase in self.schedule.phases:
                    if phase.end > self.progress.epoch:
                        self.train_phase(phase, prefetcher)
        finally:
            self.log.close()
        if self.world.is_main:
            console.print_end(self.config, self.schedule.epochs)

    def train_phase(self, phase: Phase, prefetcher: PhasePrefetcher) -> None:
        """The remaining epochs of ``phase``. Preparing the step for its shapes does not count as training time."""
        asked = time.perf_counter()
        flops = forward_flops(self.config.model, len(self.state.datasets.classes), phase.px)
        with contextlib.closing(prefetcher.take(phase)) as loaders:
            compiled = self.state.step.prepare(phase.px, loaders.training.batch, self.world.device)
            self.log.phase_prepared(phase, time.perf_counter() - asked, compiled)
            for epoch in range(max(phase.start, self.progress.epoch), phase.end):
                if epoch == phase.end - 1:
                    prefetcher.begin(phase.end)
                images, global_batch = loaders.training.images, self.state.global_batch(phase)
                steps = self.progress.plan_epoch(images, global_batch)
                console.note_left_out(self.progress, images, global_batch, steps)
                self.log.epoch_begins(phase, self.progress.batch + steps, global_batch)
                speed = self.train_epoch(loaders.training, steps, flops)
                validation = self.validate(loaders.validation)
                self.end_epoch(loaders.training, speed, validation)
        if not math.isnan(speed.step_p50_ms):  # an epoch continued at its very end has no steps left
            logger.info("%s: %s", described(phase), bottleneck(speed))

    def train_epoch(self, loader: TrainLoader, steps: int, flops: float) -> Speed:
        """Train the ``steps`` left of the epoch; returns their speed. ``progress.sums`` are then of the whole epoch."""
        state, progress, epoch, device = self.state, self.progress, self.progress.epoch, self.world.device
        start, seconds_before, seed = progress.batch, progress.seconds, self.config.run.seed
        places, global_batch = range(progress.images, progress.epoch_images), loader.batch * self.world.ranks
        sums, rates, losses = MetricSums(device), [], []  # of the steps since the metrics were read
        state.model.train()
        with loader.epoch(epoch, start, places) as batches, profiled(self.trace_file(loader), steps) as profiler_step:
            clock, asked = StepClock(device), time.perf_counter()
            for batch, (images, labels) in enumerate(batches, start=start + 1):
                clock.wait(asked)
                progress.batch, progress.images = batch, progress.images + global_batch
                progress.images_seen += global_batch
                lr, momentum = self.rates(global_batch)
                rates.append((lr, momentum))
                losses.append(state.step(images, labels, lr, sums, batch_key(seed, epoch, batch), momentum))
                if state.ema is not None:
                    state.ema.update(state.model)
                clock.lap()
                profiler_step()
                stop, save = self.signals.poll()
                if save or batch % LOG_EVERY_BATCHES == 0 or batch == start + steps:
                    progress.seconds = seconds_before + clock.elapsed()
                    self.read_metrics(sums, rates, losses, clock)
                    self.check_finite(lr, loader.px)
                else:
                    self.log.batch_done()
                if save:
                    self.save_within_epoch(stop)
                asked = time.perf_counter()
            speed = clock.speed(steps * loader.batch, flops)
        progress.seconds = seconds_before + clock.elapsed()
        return speed

    def rates(self, global_batch: int) -> Rates:
        """Learning rate, and momentum if the schedule has it, of the batch of ``global_batch`` up to here."""
        epoch, place = self.progress.epoch, self.progress.in_batches(global_batch)
        return self.schedule.lr(epoch, *place), self.schedule.momentum(epoch, *place)

    def validate(self, loader: ValLoader) -> Validation:
        """Validate the weights, and the averaged ones, unless a signal stops the run meanwhile."""
        self.log.validation_begins()
        began = time.perf_counter()
        try:
            scores = evaluate(self.state.predict, loader, self.world, self.signals)
            seconds, averaged = time.perf_counter() - began, None
            if self.state.averaged is not None:
                averaged = evaluate(self.state.averaged, loader, self.world, self.signals)
        except EvaluationStopped:
            self.save_within_epoch(stop=True)
            raise
        return Validation(scores=scores, averaged=averaged, seconds=seconds)

    def end_epoch(self, loader: TrainLoader, speed: Speed, validation: Validation) -> None:
        """Log the epoch; save ``last.pt``, and ``best.pt`` if no epoch was better; stop if asked to.

        JobError if this was the last epoch and it could not be saved.
        """
        progress, scores, averaged = self.progress, validation.scores, validation.averaged
        trained, (lr, _) = scores_of(progress.sums), self.rates(loader.batch * self.world.ranks)
        progress.seconds += validation.seconds
        progress.end_epoch()
        console.note_not_finite(progress.epoch, {"training": trained, "validation": scores})
        progress.scores = {"epoch": progress.epoch, **asdict(scores)}
        if averaged is not None:
            progress.scores |= {f"ema_{key}": value for key, value in asdict(averaged).items()}
        row = EpochRow(
            epoch=progress.epoch,
            hours=progress.seconds / 3600,
            top1=scores.top1,
            top5=scores.top5,
            train_loss=trained.loss,
            val_loss=scores.loss,
            lr=lr,
            images_per_s=speed.images_per_s_per_gpu * self.world.ranks,
            px=loader.px,
            global_batch=loader.batch * self.world.ranks,
            ema_top1=averaged.top1 if averaged else math.nan,
            ema_top5=averaged.top5 if averaged else math.nan,
            **asdict(speed),
        )
        self.log.epoch_done(row, validation.seconds)
        rank = rank_of(scores, len(self.state.datasets.classes))
        saved = self.save(rank if rank > progress.best else None)
        if progress.epoch < self.schedule.epochs:
            if self.signals.poll()[0]:
                self.stop(f"the end of epoch {progress.epoch}", saved)
        elif not saved:
            what = f"the run has ended, but its last weights were not saved; {last_good(self.config.run.dir)}"
            is_sound = self.state.is_sound()  # else the same command would do the same
            raise JobError(what, remedy="run the same command again" if is_sound else AFTER_NAN)

    # ---------------------------------------------------------------------------------------- saving and stopping
    def save(self, best: list[float] | None = None) -> bool:
        """Whether a checkpoint was saved; ``best``: the rank of the epoch that has just ended, if none was better."""
        self.signals.saved()
        return save(self.state, best)

    def save_within_epoch(self, stop: bool) -> None:
        saved = self.save()
        if stop:
            self.stop(f"batch {self.progress.batch} of epoch {self.progress.epoch + 1}", saved)

    def stop(self, where: str, saved: bool) -> NoReturn:
        run_dir = self.config.run.dir
        end = f"the same command continues from {run_dir}" if saved else f"nothing was saved; {last_good(run_dir)}"
        raise Preempted(f"stopped at {where}; {end}", self.signals.number, saved)

    def check_finite(self, lr: float, px: int) -> None:
        """Raise JobError, in every process, if there were MAX_BAD_STEPS bad steps in a row, or all steps of the run
        were bad."""
        bad = int(max_over_ranks(self.state.step.longest_bad_run, self.world))
        if bad >= min(MAX_BAD_STEPS, self.state.work.total_batches):
            raise JobError(
                f"no finite loss or gradient for {bad} steps in a row, up to batch {self.progress.batch} of epoch "
                f"{self.progress.epoch + 1} at {px} px, lr {lr:.6g}; {last_good(self.config.run.dir)}",
                remedy=AFTER_NAN,
            )

    # --------------------------------------------------------------------------------------------- what is reported
    def open_log(self) -> None:
        """Begin or continue the log, in the main process. OptionError if that cannot be."""
        state, run_dir = self.state, self.config.run.dir
        try:
            self.log = RunLog(self.config, self.progress, state.sessions, state.work)
        except OSError as error:
            raise unusable_folder(Path(error.filename or run_dir), error) from None
        if self.continued_from is not None:
            console.print_continued(self.continued_from, self.progress.epoch + 1, self.progress.batch)

    def read_metrics(self, sums: MetricSums, rates: list[Rates], losses: list[torch.Tensor], clock: StepClock) -> None:
        """Log the steps since the last call, and empty ``sums``, ``rates`` and ``losses``. Waits for the device."""
        read, step_losses = sums.over_ranks(self.world), over_batch(losses, self.world)
        sums.sums.zero_()
        losses.clear()
        self.progress.add(read)
        self.log.batches_done(rates, step_losses, scores_of(read), clock)
        rates.clear()

    def trace_file(self, loader: TrainLoader) -> Path | None:
        """Where to write the profiler's trace; None if this epoch has none."""
        epoch = self.progress.epoch
        if not (self.config.run.profile and self.world.is_main and epoch == self.schedule.phase(epoch).start):
            return None
        return self.config.run.dir / f"trace_{loader.px}px_epoch{epoch + 1}.json.gz"

    def note_another_batch(self) -> None:
        """Say so if the learning rates are meant for another global batch."""
        wanted, have = self.config.schedule.gpus, self.state.gpus
        if wanted == have:
            return
        can_emulate = wanted % self.world.ranks == 0
        remedy = f"--dist.emulate_gpus={wanted} keeps" if can_emulate else f"{plural(wanted, 'process')} would keep"
        what = f"the learning rates are meant for {plural(wanted, 'GPU')}, and the global batch is that of {have}"
        logger.info("note: %s; %s the recipe's batch, or give rates for this batch", what, remedy)


def rank_of(scores: Scores, classes: int) -> list[float]:
    """What decides which epoch is the best: top-5 where it tells epochs apart, then top-1, then the loss."""
    loss = scores.loss if math.isfinite(scores.loss) else math.inf
    return [scores.top5 if tells_top5(classes) else 0.0, scores.top1, -loss]
