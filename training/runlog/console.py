"""The console output of a run: a line an epoch on standard output, and progress within an epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data_tools.common.progress_bar import terminal_bar
from training.config.run_config import Log, RunConfig
from training.runlog.epoch_table import HEADING, EpochRow, line

if TYPE_CHECKING:
    from training.runlog.epoch_table import Scores

REDRAW_SECONDS = 0.5  # of a bar


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


def figures(snapshot: ProgressSnapshot) -> str:
    return (
        f"loss {snapshot.loss:.3f}, lr {snapshot.lr:.4g}, {snapshot.images_per_s:.0f} img/s, "
        f"waiting {snapshot.data_wait_percent:.0f} %"
    )


def left(snapshot: ProgressSnapshot) -> str:
    return f"left: epoch {clock(snapshot.epoch_seconds_left)}, run {clock(snapshot.run_seconds_left)}"


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


def print_complete(config: RunConfig, epochs: int) -> None:
    if config.log.format == "json":
        print(as_json("complete", {"dir": str(config.run.dir), "epochs": epochs}))
    else:
        print(f"{config.run.dir}: complete after {epochs} epochs; to train again, give another --run.dir")


def print_scores(config: RunConfig, scores: Scores, px: int, val_set: str, rectangular: bool) -> None:
    """Print the result of ``run.eval_only``."""
    if config.log.format == "json":
        about = {"checkpoint": str(config.run.checkpoint), "px": px, "set": val_set, "rectangular": rectangular}
        print(as_json("validation", asdict(scores) | about))
        return
    kind = "rectangles" if rectangular else "squares"
    print(
        f"{config.run.checkpoint}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
        f"({scores.images} images, {px} px {kind} of {val_set})"
    )


class Console:
    """Prints epochs to standard output, as a table or as JSON objects. Progress goes there as JSON; otherwise to
    standard error, as a bar on a terminal, else as a plain line every ``log.seconds``."""

    def __init__(self, options: Log) -> None:
        self._json, self._seconds = options.format == "json", options.seconds
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._last_line = time.monotonic()
        self._last_redraw = 0.0
        if not self._json:
            print(HEADING, flush=True)

    def epoch_begins(self, epoch: int, batch: int, batches: int) -> None:
        if self._terminal:
            bar_format = "{desc} {percentage:3.0f} %|{bar:10}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = terminal_bar(batches, batch, desc=f"epoch {epoch}", leave=False, bar_format=bar_format)

    def is_due(self) -> bool:
        """Whether it is time to show progress."""
        now = time.monotonic()
        return now - self._last_line >= self._seconds or (
            self._bar is not None and now - self._last_redraw >= REDRAW_SECONDS
        )

    def progress(self, snapshot: ProgressSnapshot) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._last_redraw = now
            self._bar.n = snapshot.batch
            self._bar.set_postfix_str(f"{left(snapshot)}, {figures(snapshot)}")
        if now - self._last_line < self._seconds:
            return
        self._last_line = now
        if self._json:
            print(as_json("progress", asdict(snapshot)), flush=True)
        elif self._bar is None:
            share = 100 * snapshot.batch / snapshot.batches
            where = f"epoch {snapshot.epoch}/{snapshot.epochs}, {share:.0f} % of {snapshot.batches} batches"
            print(f"{where}, {snapshot.px} px: {figures(snapshot)}, {left(snapshot)}", file=sys.stderr, flush=True)

    def epoch_done(self, row: EpochRow) -> None:
        self.close()
        print(as_json("epoch", row.flat()) if self._json else line(row), flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
