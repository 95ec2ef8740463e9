"""The log of a run: config, environment, epochs.csv, steps.csv, TensorBoard events, W&B and the console."""

import io
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from data_tools.common.files import write_atomically
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase
from training.runlog.console import Console
from training.runlog.csv_log import CsvLog, GrowingFile
from training.runlog.epoch_table import (
    COLUMNS,
    CONFIG,
    EPOCHS,
    EpochRow,
    EpochTable,
    PastEpoch,
    Scores,
    validation_images,
)
from training.runlog.eta import EtaEstimator, WorkModel
from training.runlog.progress import Progress
from training.runlog.sessions import Session, write_sessions
from training.runlog.step_table import STEP_COLUMNS, STEPS, StepRow
from training.runlog.wandb_logger import Tracker

logger = logging.getLogger(__name__)


class StepTimes(Protocol):
    """What the log needs of `engine.throughput.StepClock`."""

    marks: list[float]
    waited: float

    def elapsed(self) -> float: ...
    def starved(self) -> float: ...


Rates = tuple[float, float | None]  # of learning, and momentum if the schedule has it


class Log:
    """What a run reports. This one reports nothing: it is that of every process but the main one."""

    def phase_prepared(self, phase: Phase, seconds: float, compiled: bool) -> None:
        """The step is ready for ``phase``, ``seconds`` after it was asked for; ``compiled``: its code was not in the
        cache."""

    def epoch_begins(self, phase: Phase, batches: int, global_batch: int) -> None:
        """The epoch of the run's progress begins, or continues."""

    def batch_done(self) -> None:
        """A batch was trained whose metrics are still on the device."""

    def batches_done(self, rates: Sequence[Rates], losses: Sequence[float], scores: Scores, times: StepTimes) -> None:
        """The batches since the last call have these ``scores``, and step by step ``rates`` and mean ``losses``."""

    def validation_begins(self) -> None:
        """All batches of the epoch are trained."""

    def epoch_done(self, row: EpochRow, eval_seconds: float) -> None:
        """The epoch is trained and validated."""

    def close(self) -> None:
        """The run ends here, complete or not."""


class EventLog(GrowingFile):
    """A new event file of TensorBoard in ``folder``; what earlier ones have from ``purge_step`` on is void.

    Torch's SummaryWriter writes in a thread, which a full disk ends for good, with a traceback.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        super().__init__(folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.0")
        restart = SessionLog(status=SessionLog.START)
        self._write({"file_version": "brain.Event:2"}, {"step": purge_step, "session_log": restart})

    def add(self, values: Mapping[str, float], step: int, at: float) -> None:
        """Log ``values`` by tag at ``step``, and a time in seconds since 1970."""
        scalars = [{"value": [{"tag": tag, "simple_value": value}]} for tag, value in values.items()]
        self._write(*({"step": step, "wall_time": at, "summary": each} for each in scalars))

    def _write(self, *events: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(Event(**{"wall_time": time.time(), **event}).SerializeToString())
        self.append(records.getvalue())


class RunLog(Log):
    """The log of the main process, from ``progress`` on, which has the complete epochs. OptionError if wandb
    refuses."""

    def __init__(self, config: RunConfig, progress: Progress, sessions: Sequence[Session], work: WorkModel) -> None:
        self.dir = config.run.dir
        self.progress, self.eta = progress, EtaEstimator(work)
        history = [PastEpoch(**each) for each in progress.history]
        self.epochs = CsvLog(self.dir / EPOCHS, COLUMNS, lines=[each.line for each in history])
        self.steps = CsvLog(self.dir / STEPS, STEP_COLUMNS, progress.step_rows)
        progress.step_rows = self.steps.rows  # fewer, if only the checkpoint was moved here
        self.tracker: Tracker | None = None
        if config.log.wandb is not None:
            self.tracker = Tracker(config.log.wandb, self.dir, as_mapping(config))
        write_sessions(self.dir, sessions)
        write_atomically(self.dir / CONFIG, json.dumps(as_mapping(config), indent=2).encode() + b"\n")
        has_events = any("tfevents" in path.name for path in self.dir.iterdir())
        # Discard events beyond the checkpoint. An epoch's scores have the same step as the start of the next epoch, and
        # so of a continued run: keep them.
        self.events = EventLog(self.dir, progress.images_seen + 1 if progress.images_seen else 0)
        progress.started = progress.started or time.time()
        if not (progress.images_seen and has_events):  # or only the checkpoint was moved here
            self._scalars({"times/first": progress.started}, 0, progress.started)  # data_tools.dawn_tsv counts from it
            for each in history:
                self._scalars(each.scalars, each.images_seen, each.ended)
        self.console = Console(config.log, EpochTable(images=validation_images(work.images)))
        for each in history:
            self.console.epoch_done(each.row)

    def close(self) -> None:
        self.console.close()
        if self.tracker is not None:
            self.tracker.close()

    def _scalars(self, values: Mapping[str, float], images_seen: int | None = None, at: float | None = None) -> None:
        """Log ``values`` after ``images_seen`` images, at a time in seconds since 1970; by default here and now."""
        seen = self.progress.images_seen if images_seen is None else images_seen
        self.events.add(values, seen, time.time() if at is None else at)
        if self.tracker is not None:
            self.tracker.log(values, seen)

    def phase_prepared(self, phase: Phase, seconds: float, compiled: bool) -> None:
        self._scalars({"times/prepare_sec": seconds})
        cold = "; the step was compiled, which training.warm_up can do beforehand" if compiled else ""
        logger.info("%s: ready for the first step after %.1f s%s", described(phase), seconds, cold)

    def epoch_begins(self, phase: Phase, batches: int, global_batch: int) -> None:
        at = self.progress
        self._scalars({"sizes/image": phase.px, "sizes/batch": global_batch})
        self.eta.begin_epoch(at.epoch, at.images / global_batch, at.seconds)
        self.console.epoch_begins(at.epoch + 1, at.batch, batches)
        self._images_before, self._batches, self._global_batch = at.images_seen, batches, global_batch

    def batch_done(self) -> None:
        self.console.advance(self.progress.batch)  # reading the metrics would wait for the device

    def batches_done(self, rates: Sequence[Rates], losses: Sequence[float], scores: Scores, times: StepTimes) -> None:
        at, steps, (lr, momentum) = self.progress, len(times.marks) - 1, rates[-1]
        self.steps.add(
            StepRow(epoch=at.epoch + 1, batch=batch, lr=rate, loss=loss).cells()
            for batch, ((rate, _), loss) in enumerate(zip(rates, losses, strict=True), at.batch - len(losses) + 1)
        )
        at.step_rows = self.steps.rows
        values = {
            "losses/xent": scores.loss,
            "losses/train_1": scores.top1,
            "losses/train_5": scores.top5,
            "sizes/lr": lr,
            "times/step": 1000 * (times.marks[-1] - times.marks[0]) / steps,
            "times/data": 1000 * times.waited / steps,
        }
        if momentum is not None:
            values["sizes/momentum"] = momentum
        self._scalars(values)
        if self.console.is_due():
            self.console.progress(self._progress_values(lr, scores.loss, times))

    def _progress_values(self, lr: float, loss: float, times: StepTimes) -> dict[str, float]:
        """Progress within the epoch: ``loss`` of the batches since it was last read, images a second of the whole job,
        and the share of time that this process waited, over what it trained of the epoch."""
        at, schedule, seconds = self.progress, self.eta.work.schedule, times.elapsed()
        epoch_left, run_left = self.eta.left(at.epoch, at.images / self._global_batch, at.seconds)
        return {
            "epoch": at.epoch + 1,
            "epochs": schedule.epochs,
            "batch": at.batch,
            "batches": self._batches,
            "px": schedule.phase(at.epoch).px,
            "loss": loss,
            "lr": lr,
            "images_per_s": (at.images_seen - self._images_before) / seconds,
            "data_wait_percent": 100 * times.starved() / seconds,
            "epoch_seconds_left": epoch_left,
            "run_seconds_left": run_left,
        }

    def validation_begins(self) -> None:
        self.console.validating(self.progress.batch)

    def epoch_done(self, row: EpochRow, eval_seconds: float) -> None:
        line, seen = ",".join(row.cells()), self.progress.images_seen
        past = PastEpoch(line=line, images_seen=seen, ended=time.time(), eval_seconds=eval_seconds)
        self.progress.history.append(asdict(past))
        self._scalars(past.scalars, seen, past.ended)
        self.epochs.add([row.cells()])
        self.console.epoch_done(row)


def described(phase: Phase) -> str:
    """The epochs of ``phase``, counted from 1, and its size."""
    return f"epoch{'s' if '-' in phase.span else ''} {phase.span}, {phase.px} px"
