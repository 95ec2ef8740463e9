"""Where a run begins, at its folder's checkpoint or at the start, and how it saves."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from data_tools.common.files import warn_on_write_error
from data_tools.common.options import OptionError
from training.config.continuation import check_changes, differences
from training.config.startup_checks import unusable_folder
from training.distributed.world import copy_from_main, from_main
from training.engine.state import TrainState
from training.model import checkpoint, weights

logger = logging.getLogger(__name__)


def resume(state: TrainState) -> Path | None:
    """Continue from the checkpoint of the run folder, or begin there; returns the checkpoint, None if the run begins.

    The main process reads, and the others get what it has. OptionError, in every process, if the checkpoint was made
    with other options or cannot be read.
    """
    source = from_main(lambda: _read(state), state.world)
    copy_from_main(state.tensors(), state.world)
    state.set_plain(from_main(state.plain, state.world))
    return source


def _read(state: TrainState) -> Path | None:
    run = state.config.run
    found = checkpoint.load_newest(run.dir)
    if found is None:
        _begin(state)
        return None
    saved, path = found
    changes = differences(saved["options"], state.options)
    check_changes(changes, run.accept_changes, path)
    state.restore(saved)
    at = {"epoch": state.progress.epoch, "batch": state.progress.batch}
    for change in changes:
        state.changes.append(at | asdict(change))
        logger.info("note: %s continues with a change: %s", path, change)
    return path


def _begin(state: TrainState) -> None:
    """Begin with random weights, or those of ``run.init_from``, and save them: whatever stops the run from here on, its
    folder has a checkpoint to continue from."""
    run = state.config.run
    if run.init_from is not None:
        classes = state.datasets.classes
        try:
            given = weights.read(run.init_from)
            has_new_layer = weights.begin_from(state.model, given, classes)
        except OptionError as error:
            raise OptionError(error.fault, where="run.init_from", remedy=error.remedy) from None
        but = f", but with a new last layer for {len(classes)} classes" if has_new_layer else ""
        logger.info("note: starting from the weights of %s%s", given.source, but)
    try:
        run.dir.mkdir(parents=True, exist_ok=True)
        checkpoint.save_last(run.dir, state.to_checkpoint())
    except OSError as error:
        raise unusable_folder(Path(error.filename or run.dir), error) from None


def save(state: TrainState, best: list[float] | None = None) -> bool:
    """Write ``last.pt``, and ``best.pt`` if ``best`` is given, the rank of the epoch that has just ended.

    Whether the main process has written ``last.pt``; if not, a warning says why.
    """
    return from_main(lambda: _save(state, best), state.world)


def _save(state: TrainState, best: list[float] | None) -> bool:
    run_dir = state.config.run.dir
    if not state.is_sound():
        logger.warning("%s not written: the weights are not finite", checkpoint.LAST)
        return False
    if best is not None:
        # First, so that last.pt does not call an epoch the best that best.pt does not hold.
        before, state.progress.best = state.progress.best, best
        content = state.to_checkpoint()
        if not _written(checkpoint.BEST, lambda: checkpoint.save(run_dir / checkpoint.BEST, content)):
            state.progress.best = before
    return _written(checkpoint.LAST, lambda: checkpoint.save_last(run_dir, state.to_checkpoint()))


def _written(name: str, write: Callable[[], None]) -> bool:
    """Whether ``write`` could; else there is a warning."""
    with warn_on_write_error(name):
        write()
        return True
    return False


def last_good(run_dir: Path) -> str:
    """Which checkpoint there is to go back to, in words."""
    last = run_dir / checkpoint.LAST
    return f"the last good checkpoint is {last if last.exists() else run_dir / checkpoint.PREVIOUS}"
