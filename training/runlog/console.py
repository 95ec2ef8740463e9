"""The console output of a run: a line per epoch on standard output, and progress within an epoch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.common.progress_bar import ProgressDisplay
from data_tools.common.text import plural
from training.config.run_config import Log, RunConfig
from training.runlog.epoch_table import EpochRow, EpochTable

if TYPE_CHECKING:
    from training.runlog.epoch_table import Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressSnapshot:
    """Progress within ``epoch`` (from 1) of ``epochs``, after ``batch`` of ``batches``: ``loss`` of the batches
    since it was last read, ``images_per_s`` of the whole job and ``data_wait_percent`` over what this process trained
    of the epoch; the seconds left are nan while unknown."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    px: int
    loss: float
    lr: float
    images_per_s: float
    data_wait_percent: float
    epoch_seconds_left: float
    run_seconds_left: float


def time_left(snapshot: ProgressSnapshot) -> list[str]:
    return [f"left: epoch {clock(snapshot.epoch_seconds_left)}", f"run {clock(snapshot.run_seconds_left)}"]


def measurements(snapshot: ProgressSnapshot) -> list[str]:
    return [
        f"loss {snapshot.loss:.3f}",
        f"lr {snapshot.lr:.4g}",
        f"{snapshot.images_per_s:.0f} img/s",
        f"waiting {snapshot.data_wait_percent:.0f} %",
    ]


def clock(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def as_json(event: str, values: Mapping[str, Any]) -> str:
    """One line of JSON, with null for nan and infinities, which JSON does not have."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps({"event": event, **plain})


def print_start(config: RunConfig) -> None:
    """Print what begins, before PyTorch is loaded, which takes seconds."""
    if config.run.checkpoint is not None:
        what = f"validating {config.run.checkpoint}"
    else:
        what = f"training {config.model.arch} for {plural(config.schedule.parsed.epochs, 'epoch')} in {config.run.dir}"
    print(f"{what}; loading PyTorch", file=sys.stderr, flush=True)


def print_continued(source: Path, epoch: int, batch: int) -> None:
    """Print where a run continues: after ``batch`` batches of ``epoch`` (from 1)."""
    where = f"batch {batch} of epoch {epoch}" if batch else f"the start of epoch {epoch}"
    print(f"continued at {where} from {source}", file=sys.stderr, flush=True)


def print_end(config: RunConfig, epochs: int) -> None:
    """Say that the run is complete; not on standard output if that holds the table."""
    if config.log.format == "json":
        print_complete(config, epochs)
    else:
        run_dir = config.run.dir
        print(f"complete; for a report: `.venv/bin/python -m training.report {run_dir}`", file=sys.stderr)


def print_complete(config: RunConfig, epochs: int) -> None:
    """Say that there is nothing left to train."""
    if config.log.format == "json":
        print(as_json("complete", {"dir": str(config.run.dir), "epochs": epochs}))
    else:
        print(f"{config.run.dir}: complete after {plural(epochs, 'epoch')}; to train again, give another --run.dir")


def print_scores(config: RunConfig, scores: Scores, px: int, val_set: str, rectangular: bool) -> None:
    """Print the result of ``run.eval_only``."""
    if config.log.format == "json":
        about = {"checkpoint": str(config.run.checkpoint), "px": px, "set": val_set, "rectangular": rectangular}
        print(as_json("validation", asdict(scores) | about))
        return
    kind = "rectangles" if rectangular else "squares"
    print(
        f"{config.run.checkpoint}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
        f"({plural(scores.images, 'image')}, {px} px {kind} of {val_set})"
    )


class Console:
    """Prints epochs to standard output, as ``table`` has them or as JSON objects. Progress goes there as JSON;
    otherwise to standard error, as a bar on a terminal, else as a plain line every ``log.seconds``."""

    def __init__(self, options: Log, table: EpochTable | None = None) -> None:
        self._json = options.format == "json"
        self._table = table or EpochTable()
        self._display = ProgressDisplay(options.seconds, lines_to=sys.stdout if self._json else None)
        if not self._json:
            print(self._table.heading, flush=True)

    def epoch_begins(self, epoch: int, batch: int, batches: int) -> None:
        self._display.begin(batches, batch, f"epoch {epoch}")

    def is_due(self) -> bool:
        """Whether it is time to show progress."""
        return self._display.is_due()

    def advance(self, batch: int) -> None:
        """The bar moves on between two reports of :meth:`progress`, since reading the metrics waits for the device."""
        self._display.advance(batch)

    def validating(self, batches: int) -> None:
        """All ``batches`` of the epoch are trained."""
        self._display.show(batches, ["validating"])

    def progress(self, snapshot: ProgressSnapshot) -> None:
        left, measured = time_left(snapshot), measurements(snapshot)
        share = 100 * snapshot.batch // snapshot.batches
        where = f"epoch {snapshot.epoch}/{snapshot.epochs}, {share} % of {plural(snapshot.batches, 'batch')}"
        text = f"{where}, {snapshot.px} px: {', '.join([*measured, *left])}"
        line = as_json("progress", asdict(snapshot)) if self._json else text
        self._display.show(snapshot.batch, [*left, *measured], line)

    def epoch_done(self, row: EpochRow) -> None:
        self.close()
        print(as_json("epoch", row.flat()) if self._json else self._table.line(row), flush=True)

    def close(self) -> None:
        self._display.close()
