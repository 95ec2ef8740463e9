"""What a run leaves behind while it goes: config, epochs.csv, TensorBoard events, lines on the console."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.config import RunConfig, as_mapping
from training.job import Progress
from training.metrics import Scores
from training.phases import Phase
from training.speed import Speed, StepClock

CONFIG, EPOCHS = "config.json", "epochs.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """A line of ``epochs.csv``: ``epoch`` counts completed epochs from 1, as the published table does; ``hours`` is
    the clock of training and validation; the scores of averaged weights are nan where none are kept."""

    epoch: int
    hours: float
    top1: float
    top5: float
    train_loss: float
    lr: float
    images_per_s: float
    px: int
    images_per_s_per_gpu: float
    data_wait_percent: float
    host_wait_percent: float
    step_p50_ms: float
    step_p99_ms: float
    gpu_memory_gib: float
    tflops: float
    mfu_percent: float
    ema_top1: float
    ema_top5: float

    @staticmethod
    def of(
        progress: Progress,
        phase: Phase,
        lr: float,
        trained: Scores,
        scores: Scores,
        averaged: Scores | None,
        speed: Speed,
        ranks: int,
    ) -> EpochRow:
        return EpochRow(
            epoch=progress.epoch,
            hours=progress.seconds / 3600,
            top1=scores.top1,
            top5=scores.top5,
            train_loss=trained.loss,
            lr=lr,
            images_per_s=speed.images_per_s_per_gpu * ranks,
            px=phase.px,
            ema_top1=averaged.top1 if averaged else float("nan"),
            ema_top5=averaged.top5 if averaged else float("nan"),
            **asdict(speed),
        )


HEADING = f"{'epoch':>5} {'hours':>8} {'top1':>8} {'top5':>8} {'loss':>8} {'lr':>9} {'img/s':>8} {'px':>4}"


def line(row: EpochRow) -> str:
    """The console's line for an epoch, under :data:`HEADING`."""
    return (
        f"{row.epoch:>5} {row.hours:>8.4f} {row.top1:>8.4f} {row.top5:>8.4f} {row.train_loss:>8.4f} "
        f"{row.lr:>9.6f} {row.images_per_s:>8.0f} {row.px:>4}"
    )


def read_epochs(run_dir: Path) -> list[EpochRow]:
    """The rows of a run folder's ``epochs.csv``; none where there is no such file."""
    path = run_dir / EPOCHS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            EpochRow(**{k: int(v) if k in ("epoch", "px") else float(v) for k, v in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def _write_epochs(run_dir: Path, rows: list[EpochRow]) -> None:
    partial = run_dir / f"{EPOCHS}.partial"
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(EpochRow))
        writer.writerows([_plain(value) for value in asdict(row).values()] for row in rows)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(run_dir / EPOCHS)


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.8g}"


@contextlib.contextmanager
def survived(what: str) -> Iterator[None]:
    """A full disk is no reason to lose a run: what could not be written is said, and training goes on."""
    try:
        yield
    except OSError as error:
        print(f"warning: {what} not written: {error}", file=sys.stderr)


class RunLog:
    """The log of the main process, begun after ``epochs_done`` epochs and ``images_seen`` images."""

    def __init__(self, config: RunConfig, epochs_done: int, images_seen: int) -> None:
        self.dir = config.run.dir
        self.dir.mkdir(parents=True, exist_ok=True)
        # A run continued after a crash may have logged more than its checkpoint holds; that part comes again.
        self.rows = [row for row in read_epochs(self.dir) if row.epoch <= epochs_done]
        _write_epochs(self.dir, self.rows)
        (self.dir / CONFIG).write_text(json.dumps(as_mapping(config), indent=2) + "\n")
        self.events = SummaryWriter(str(self.dir), purge_step=images_seen or None)
        self.bar: tqdm | None = None
        if not epochs_done:
            self._events(images_seen, {"first": time.time()})
        print(HEADING)
        for row in self.rows:
            print(line(row))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        with survived("the event file"):
            self.events.close()

    def _events(self, images_seen: int, values: Mapping[str, float], flush: bool = False) -> None:
        with survived("the event file"):
            for tag, value in values.items():
                self.events.add_scalar(tag, value, images_seen)
            if flush:
                self.events.flush()

    def epoch_begins(self, epoch: int, batches: int, phase: Phase, global_batch: int, progress: Progress) -> None:
        self._events(progress.images_seen, {"sizes/image": phase.px, "sizes/batch": global_batch})
        self.bar = tqdm(
            total=batches,
            initial=progress.batch,
            desc=f"epoch {epoch + 1}",
            unit="batch",
            leave=False,
            mininterval=0.5,
            disable=not sys.stderr.isatty(),
        )

    def batches_done(self, batch: int, lr: float, scores: Scores, clock: StepClock, images_seen: int) -> None:
        """After batch ``batch`` (from 1) of an epoch; ``scores`` are of the batches since the last call."""
        steps = len(clock.marks) - 1
        values = {
            "losses/xent": scores.loss,
            "losses/train_1": scores.top1,
            "losses/train_5": scores.top5,
            "sizes/lr": lr,
            "times/step": 1000 * (clock.marks[-1] - clock.marks[0]) / steps,
            "times/data": 1000 * clock.waited / steps,
        }
        self._events(images_seen, values)
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{scores.loss:.3f}", lr=f"{lr:.4g}", refresh=False)
            self.bar.update(batch - self.bar.n)

    def epoch_done(self, row: EpochRow, eval_seconds: float, images_seen: int) -> None:
        if self.bar is not None:
            self.bar.close()
        values = {"losses/test_1": row.top1, "losses/test_5": row.top5, "times/eval_sec": eval_seconds}
        self._events(images_seen, values, flush=True)
        self.rows.append(row)
        with survived(EPOCHS):
            _write_epochs(self.dir, self.rows)
        print(line(row), flush=True)
