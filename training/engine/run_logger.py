"""The log of a run: config, environment, epochs.csv, steps.csv, TensorBoard events, W&B and the console."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data_tools.common.files import warn_on_write_error, write_atomically
from data_tools.common.options import OptionError
from training.config.preflight import unusable_folder
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase
from training.distributed.stop_signals import StopSignals
from training.engine.state import Progress, TrainState
from training.engine.throughput import StepClock
from training.model.resnet import amp_dtype
from training.runlog.console import Console, ProgressSnapshot
from training.runlog.epoch_table import (
    CONFIG,
    EPOCHS,
    EpochRow,
    EpochTable,
    Scores,
    Speed,
    read_epochs,
    validation_images,
    write_epochs,
)
from training.runlog.eta import EtaEstimator, WorkModel
from training.runlog.sessions import Session, add_session, current_session, gpu_names
from training.runlog.step_table import STEPS, StepRow, add_steps, begin_steps
from training.runlog.wandb_logger import Tracker


class RunLog:
    """The log of the main process, from ``progress`` on. OptionError for a damaged table of a continued run."""

    def __init__(self, config: RunConfig, progress: Progress, session: Session, work: WorkModel) -> None:
        self.dir: Path = config.run.dir
        self.dir.mkdir(parents=True, exist_ok=True)
        self.progress, self.eta = progress, EtaEstimator(work)
        # After a crash, the log may be ahead of the checkpoint; those epochs are trained again.
        earlier = read_epochs(self.dir) if progress.epoch else []
        self.rows = [row for row in earlier if row.epoch <= progress.epoch]
        # It may refuse, so it comes before anything in the run folder is changed.
        self.tracker: Tracker | None = None
        if config.log.wandb is not None:
            self.tracker = Tracker(config.log.wandb, self.dir, as_mapping(config), continued=progress.images_seen > 0)
        begin_steps(self.dir, progress.epoch, progress.batch)
        add_session(self.dir, session)
        write_epochs(self.dir, self.rows)
        write_atomically(self.dir / CONFIG, json.dumps(as_mapping(config), indent=2).encode() + b"\n")
        # Discard events beyond the checkpoint, or all events of a run that starts over. An epoch's scores have the
        # same step as the start of the next epoch, and so of a continued run: keep them.
        purge_step = progress.images_seen + 1 if progress.images_seen else 0
        self.events = SummaryWriter(str(self.dir), purge_step=purge_step)
        if not progress.images_seen:
            self._scalars({"times/first": time.time()})  # data_tools.dawn_tsv counts the hours from it
        self.console = Console(config.log, EpochTable(images=validation_images(work.images)))
        for row in self.rows:
            self.console.epoch_done(row)

    def close(self) -> None:
        self.console.close()
        with warn_on_write_error("the event file"):
            self.events.close()
        if self.tracker is not None:
            self.tracker.close()

    def _scalars(self, values: Mapping[str, float], flush: bool = False) -> None:
        seen = self.progress.images_seen
        with warn_on_write_error("the event file"):
            for tag, value in values.items():
                self.events.add_scalar(tag, value, seen)
            if flush:
                self.events.flush()
        if self.tracker is not None:
            self.tracker.log(values, seen)

    def epoch_begins(self, phase: Phase, batches: int, global_batch: int) -> None:
        """The epoch of ``progress`` begins, or continues."""
        at = self.progress
        self._scalars({"sizes/image": phase.px, "sizes/batch": global_batch})
        self.eta.begin_epoch(at.epoch, at.batch, at.seconds)
        self.console.epoch_begins(at.epoch + 1, at.batch, batches)
        self._images_before = at.images_seen

    def phase_prepared(self, phase: Phase, seconds: float, compiled: bool) -> None:
        """The step is ready for ``phase``, ``seconds`` after the end of what came before; ``compiled``: its code was
        not in Inductor's cache."""
        self._scalars({"times/prepare_sec": seconds})
        cold = "; the step was compiled, which training.warm_up can do beforehand" if compiled else ""
        print(f"{described(phase)}: ready for the first step after {seconds:.1f} s{cold}", file=sys.stderr)

    def batches_done(self, lr: float, momentum: float | None, scores: Scores, clock: StepClock) -> None:
        """Log the batches since the last call; ``scores`` are theirs."""
        steps = len(clock.marks) - 1
        values = {
            "losses/xent": scores.loss,
            "losses/train_1": scores.top1,
            "losses/train_5": scores.top5,
            "sizes/lr": lr,
            "times/step": 1000 * (clock.marks[-1] - clock.marks[0]) / steps,
            "times/data": 1000 * clock.waited / steps,
        }
        if momentum is not None:
            values["sizes/momentum"] = momentum
        self._scalars(values)
        if self.console.is_due():
            self.console.progress(self._snapshot(lr, scores.loss, clock))

    def steps_done(self, losses: Sequence[float]) -> None:
        """Record the steps since the last call, whose mean losses are ``losses``."""
        work, epoch, batch = self.eta.work, self.progress.epoch, self.progress.batch
        rows = [
            StepRow(epoch=epoch + 1, batch=number, lr=work.schedule.lr(epoch, number, work.batches(epoch)), loss=loss)
            for number, loss in enumerate(losses, start=batch - len(losses) + 1)
        ]
        with warn_on_write_error(STEPS):
            add_steps(self.dir, rows)

    def batch_done(self) -> None:
        """A batch was trained whose metrics are still on the device."""
        self.console.advance(self.progress.batch)

    def validation_begins(self) -> None:
        self.console.validating(self.progress.batch)

    def _snapshot(self, lr: float, loss: float, clock: StepClock) -> ProgressSnapshot:
        at, schedule, seconds = self.progress, self.eta.work.schedule, clock.elapsed()
        epoch_left, run_left = self.eta.left(at.epoch, at.batch, at.seconds)
        return ProgressSnapshot(
            epoch=at.epoch + 1,
            epochs=schedule.epochs,
            batch=at.batch,
            batches=self.eta.work.batches(at.epoch),
            px=schedule.phase(at.epoch).px,
            loss=loss,
            lr=lr,
            images_per_s=(at.images_seen - self._images_before) / seconds,
            data_wait_percent=100 * clock.starved() / seconds,
            epoch_seconds_left=epoch_left,
            run_seconds_left=run_left,
        )

    def epoch_done(self, row: EpochRow, eval_seconds: float) -> None:
        values = {
            "losses/test_1": row.top1,
            "losses/test_5": row.top5,
            "losses/test_xent": row.val_loss,
            "times/eval_sec": eval_seconds,
        }
        self._scalars(values, flush=True)
        self.rows.append(row)
        with warn_on_write_error(EPOCHS):
            write_epochs(self.dir, self.rows)
        self.console.epoch_done(row)


def described(phase: Phase) -> str:
    """The epochs of ``phase``, counted from 1, and its size."""
    return f"epoch{'s' if '-' in phase.span else ''} {phase.span}, {phase.px} px"


def begin(state: TrainState, signals: StopSignals) -> RunLog | None:
    """The main process's log; every process must call it, and gets an OptionError if the log cannot be started."""
    images = {name: manifest.images for name, manifest in state.datasets.manifests.items()}
    gpus = gpu_names(state.world.device, signals.every_rank)
    log, problem = None, OptionError("the main process could not start its log", where="run.dir")
    if state.world.is_main:
        try:
            session = current_session(
                run_dir=state.config.run.dir,
                gpus=gpus,
                processes=state.world.ranks,
                precision=str(amp_dtype(state.config.train.amp, state.world.device)).removeprefix("torch."),
                epoch=state.progress.epoch,
                hours=state.progress.seconds / 3600,
                classes=len(state.datasets.classes),
                images=images,
            )
            work = WorkModel(schedule=state.schedule, images=images, gpus=state.accumulation_steps * state.world.ranks)
            log = RunLog(state.config, state.progress, session, work)
        except OptionError as error:
            problem = error
        except OSError as error:
            problem = unusable_folder(Path(error.filename or state.config.run.dir), error)
    if not signals.every_rank(torch.tensor([int(log is not None)])).any():
        raise problem  # in all processes, or the others would wait for this one
    return log


def row_of(
    state: TrainState, phase: Phase, lr: float, trained: Scores, scores: Scores, averaged: Scores | None, speed: Speed
) -> EpochRow:
    """The row of the epoch just completed; ``averaged`` are the scores of averaged weights."""
    return EpochRow(
        epoch=state.progress.epoch,
        hours=state.progress.seconds / 3600,
        top1=scores.top1,
        top5=scores.top5,
        train_loss=trained.loss,
        val_loss=scores.loss,
        lr=lr,
        images_per_s=speed.images_per_s_per_gpu * state.world.ranks,
        px=phase.px,
        global_batch=state.global_batch(phase),
        ema_top1=averaged.top1 if averaged else float("nan"),
        ema_top5=averaged.top5 if averaged else float("nan"),
        speed=speed,
    )
