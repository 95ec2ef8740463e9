"""The console output of a run: a line per epoch on standard output, and progress within an epoch."""

import json
import logging
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.common.console import plural, show
from data_tools.common.progress_bar import ProgressDisplay
from training.config.run_config import Log, RunConfig
from training.runlog.epoch_table import EpochRow, EpochTable, Scores
from training.runlog.progress import Progress

logger = logging.getLogger(__name__)


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
    """Print what begins, unless PyTorch, which takes seconds to load, is loaded already."""
    if "torch" in sys.modules:
        return
    epochs = plural(config.schedule.epochs, "epoch")
    logger.info("training %s for %s in %s; loading PyTorch", config.model.arch, epochs, config.run.dir)


def print_continued(source: Path, epoch: int, batch: int) -> None:
    """Print where a run continues: after ``batch`` batches of ``epoch`` (from 1)."""
    where = f"batch {batch} of epoch {epoch}" if batch else f"the start of epoch {epoch}"
    logger.info("continued at %s from %s", where, source)


def note_left_out(at: Progress, images: int, global_batch: int, steps: int) -> None:
    """Say how many of its ``images`` an epoch leaves out if it began with another batch, which does not divide the
    same."""
    left_out = images - at.images - steps * global_batch  # none of a smaller set
    if left_out > 0 and steps * global_batch < at.epoch_images - at.images:
        rest = f"the rest of epoch {at.epoch + 1} is {plural(steps, 'batch')} of {global_batch}"
        logger.info("note: %s; %d of its %s are left out", rest, left_out, plural(images, "image"))


def note_not_finite(epoch: int, scores: Mapping[str, Scores]) -> None:
    """Say over how many images the mean losses of ``epoch`` (from 1) are, where not over all; ``scores`` by what they
    are of."""
    for kind, each in scores.items():
        if each.finite < each.images:
            over = f"{each.finite} of {plural(each.images, 'image')}; that of the others is not finite"
            logger.info("note: the %s loss of epoch %d is the mean over %s", kind, epoch, over)


def print_end(config: RunConfig, epochs: int) -> None:
    """Say that the run is complete; not on standard output if that holds the table."""
    if config.log.format == "json":
        print_complete(config, epochs)
    else:
        run_dir = shlex.quote(str(config.run.dir))
        logger.info("complete; `.venv/bin/python -m training.report %s` makes a report", run_dir)


def print_complete(config: RunConfig, epochs: int) -> None:
    """Say that there is nothing left to train."""
    run_dir = config.run.dir
    if config.log.format == "json":
        show(as_json("complete", {"dir": str(run_dir), "epochs": epochs}))
    else:
        show(f"{run_dir}: complete after {plural(epochs, 'epoch')}; to train again, give another --run.dir")


class Console(ProgressDisplay):
    """Prints epochs to standard output, as ``table`` has them or as JSON objects. Progress goes there as JSON;
    otherwise to standard error, as a bar on a terminal, else as a plain line every ``log.seconds``."""

    def __init__(self, options: Log, table: EpochTable) -> None:
        self._json = options.format == "json"
        self._table = table
        super().__init__(options.seconds, lines_to_stdout=self._json)
        if not self._json:
            show(self._table.heading)

    def epoch_begins(self, epoch: int, batch: int, batches: int) -> None:
        self.begin(batches, batch, f"epoch {epoch}")

    def validating(self, batches: int) -> None:
        """All ``batches`` of the epoch are trained."""
        self.show(batches, ["validating"])

    def progress(self, at: Mapping[str, Any]) -> None:
        """Show what a line of JSON has about progress: ``batch`` of ``batches`` in ``epoch`` (from 1) of ``epochs``,
        ``px``, ``loss``, ``lr``, ``images_per_s``, ``data_wait_percent``, ``epoch_seconds_left``, ``run_seconds_left``;
        those left are nan while unknown."""
        left = [f"left: epoch {clock(at['epoch_seconds_left'])}", f"run {clock(at['run_seconds_left'])}"]
        rates = [f"{at['images_per_s']:.0f} img/s", f"waiting {at['data_wait_percent']:.0f} %"]
        measured = [f"loss {at['loss']:.3f}", f"lr {at['lr']:.4g}", *rates]
        share = 100 * at["batch"] // at["batches"]
        where = f"epoch {at['epoch']}/{at['epochs']}, {share} % of {plural(at['batches'], 'batch')}, {at['px']} px"
        line = as_json("progress", at) if self._json else f"{where}: {', '.join([*measured, *left])}"
        self.show(at["batch"], [*left, *measured], line)

    def epoch_done(self, row: EpochRow) -> None:
        self.close()
        show(as_json("epoch", row.flat()) if self._json else self._table.line(row))
