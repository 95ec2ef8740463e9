"""When a run saves, and from which checkpoint it continues. Every process of the run calls these functions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from data_tools.common.errors import UserError
from data_tools.common.options import OptionError
from training.config.continuation import check_changes, differences
from training.distributed.stop_signals import StopSignals
from training.distributed.world import Preempted
from training.engine.state import TrainState
from training.model import checkpoint, weights
from training.runlog.epoch_table import EPOCHS, Scores, tells_top5

FILES = ("*.pt", "*.csv", "*.json", "*.json.gz", "events.out.tfevents.*", "report.html", "*.png")
EARLIER = "earlier"


class Diverged(UserError, RuntimeError):
    """The weights, or too many losses or gradients in a row, are not finite."""


# ---------------------------------------------------------------------------------------------- saving
def save_within_epoch(state: TrainState, signals: StopSignals, stop: bool) -> None:
    """Save ``last.pt`` and, if ``stop``, end the run.

    ``state.progress`` holds the position in the epoch and the metric sums of all processes.
    """
    saved = _save(state, signals)
    if stop:
        _stop(state, signals, f"batch {state.progress.batch} of epoch {state.progress.epoch + 1}", saved)


def end_of_epoch(state: TrainState, scores: Scores, averaged: Scores | None, signals: StopSignals) -> None:
    """Save ``last.pt``, and ``best.pt`` if no epoch was better; stop if asked to.

    Diverged or OptionError if this was the last epoch and it could not be saved.
    """
    progress = state.progress
    progress.scores = {"epoch": progress.epoch, **asdict(scores)}
    if averaged is not None:
        progress.scores |= {f"ema_{key}": value for key, value in asdict(averaged).items()}
    rank = rank_of(scores, len(state.datasets.classes))
    saved = _save(state, signals, rank if rank > progress.best else None)
    if progress.epoch < state.schedule.epochs:
        if signals.poll()[0]:
            _stop(state, signals, f"the end of epoch {progress.epoch}", saved)
    elif not saved:
        raise Diverged(
            f"the run has ended, but its last weights were not saved (see above); {last_good(state.config.run.dir)}",
            remedy="the same command continues from the last checkpoint, or starts over if there is none",
        )


def rank_of(scores: Scores, classes: int) -> list[float]:
    """What decides which epoch is the best: top-5 where it tells epochs apart, then top-1, then the loss."""
    loss = scores.loss if math.isfinite(scores.loss) else math.inf
    return [scores.top5 if tells_top5(classes) else 0.0, scores.top1, -loss]


def _save(state: TrainState, signals: StopSignals, best: list[float] | None = None) -> bool:
    """Whether the main process has saved; the others wait for its word. ``best``: the rank of the best epoch so far, if
    that is the last one."""
    random = signals.every_rank(torch.get_rng_state())
    signals.saved()
    saved = state.world.is_main and _save_main(state, random, best)
    return bool(signals.every_rank(torch.tensor([int(saved)]))[0])


def _save_main(state: TrainState, random: torch.Tensor, best: list[float] | None) -> bool:
    run_dir = state.config.run.dir
    if not state.is_sound():
        print(f"warning: {checkpoint.LAST} not written: the weights are not finite", file=sys.stderr)
        return False
    if best is not None:
        # First, so that last.pt does not call an epoch the best that best.pt does not hold.
        before, state.progress.best = state.progress.best, best
        content = state.to_checkpoint(random)
        if not _written(checkpoint.BEST, lambda: checkpoint.save(run_dir / checkpoint.BEST, content)):
            state.progress.best = before
    return _written(checkpoint.LAST, lambda: checkpoint.save_last(run_dir, state.to_checkpoint(random)))


def _written(name: str, write: Callable[[], None]) -> bool:
    """Whether ``write`` could; else there is a warning."""
    try:
        write()
    except OSError as error:
        print(f"warning: {name} not written: {error}", file=sys.stderr)
        return False
    return True


def _stop(state: TrainState, signals: StopSignals, where: str, saved: bool) -> NoReturn:
    run_dir = state.config.run.dir
    end = f"the same command continues from {run_dir}" if saved else f"nothing was saved; {last_good(run_dir)}"
    raise Preempted(f"stopped at {where}; {end}", signals.number, saved)


def last_good(run_dir: Path) -> str:
    """Which checkpoint there is to go back to, in words."""
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        if (run_dir / name).exists():
            return f"the last good checkpoint is {run_dir / name}"
    return f"there is no checkpoint in {run_dir}"


# ---------------------------------------------------------------------------------------------- going on
def resume(state: TrainState, signals: StopSignals) -> Path | None:
    """Continue from the run folder's own checkpoint, from the one of ``run.resume``, or begin. Returns the checkpoint.

    OptionError if it is of other options, or if ``run.resume`` names another while the folder has one of this run.
    """
    run_dir, wanted = state.config.run.dir, state.config.run.resume
    own = checkpoint.load_newest(run_dir)
    start = own if own is not None and _is_own(state, *own) else None
    is_new = start is None
    if is_new and isinstance(wanted, Path):
        start = checkpoint.load(wanted), wanted
        _check(state, *start)
    if start is not None:
        state.restore(start[0])
        _note_changes(state, *start)
    elif state.config.run.init_from is not None:
        _begin_from(state, state.config.run.init_from, signals)
    _agree(state, signals)  # by now all have read what may be moved
    if is_new and state.world.is_main:
        set_aside(run_dir)
    return start[1] if start is not None else None


def _begin_from(state: TrainState, path: Path, signals: StopSignals) -> None:
    """Begin with the weights at ``path``. OptionError in every process unless all read the same there."""
    problem = OptionError(
        f"the processes find different weights in {path}",
        where="run.init_from",
        remedy="put it on a disk that all machines share",
    )
    read = -1
    try:
        state.begin_from(weights.read(path))
        read = weights.checksum(state.model)
    except OptionError as error:
        problem = OptionError(error.fault, where="run.init_from", remedy=error.remedy)
    every = signals.every_rank(torch.tensor([read]))
    if read < 0 or (every != read).any():
        raise problem


def _is_own(state: TrainState, saved: dict[str, Any], path: Path) -> bool:
    """Whether ``saved`` is to be continued; False where ``run.resume`` starts over beside another run's files."""
    wanted = state.config.run.resume
    if wanted == "auto":
        _check(state, saved, path)
        return True
    try:
        _check(state, saved, path)
    except OptionError:
        return False
    if saved["config"]["run"]["resume"] != str(wanted):
        raise OptionError(
            f"{path} is a checkpoint of this run, which continues from it",
            where="run.resume",
            remedy="leave out --run.resume, or give another --run.dir",
        )
    return True


def _check(state: TrainState, saved: dict[str, Any], path: Path) -> None:
    if "options" not in saved:
        raise OptionError("of an earlier version of this program", where=path, remedy="continue it with that version")
    check_changes(differences(saved["options"], state.options), state.config.run.accept_changes, path)


def _note_changes(state: TrainState, saved: dict[str, Any], path: Path) -> None:
    """Print and record the differences that `_check` has accepted."""
    found = differences(saved["options"], state.options)
    at = {"epoch": state.progress.epoch, "batch": state.progress.batch}
    state.changes = [*saved.get("changes", []), *({**at, **asdict(each)} for each in found)]
    if state.world.is_main:
        for each in found:
            print(f"note: {path} continues with a change: {each}", file=sys.stderr)


def _agree(state: TrainState, signals: StopSignals) -> None:
    """OptionError in every process unless all continue from the same batch."""
    at = signals.every_rank(torch.tensor([state.progress.epoch, state.progress.batch]))
    if (at != at[0]).any():
        raise OptionError(
            "the processes find different checkpoints there",
            where="run.dir",
            remedy="put it on a disk that all machines share",
        )


def set_aside(run_dir: Path) -> None:
    """Move the files of an earlier run into a folder ``earlier-1``, ``earlier-2``, ... of the run folder."""
    rows = run_dir / EPOCHS
    has_run = next(run_dir.glob("*.pt"), None) or (rows.exists() and len(rows.read_bytes().splitlines()) > 1)
    if not has_run:
        return
    number = 1
    while (folder := run_dir / f"{EARLIER}-{number}").exists():
        number += 1
    folder.mkdir()
    for path in sorted({path for pattern in FILES for path in run_dir.glob(pattern)}):
        path.rename(folder / path.name)
    print(f"note: the files of an earlier run in {run_dir} are in {folder} now", file=sys.stderr)
