"""Checks that need no torch, which takes seconds to load: a run's files, and how its batch is divided."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from data_tools.common.files import folder_fault, is_address
from data_tools.common.options import OptionError, nearest
from training.config.continuation import check_accepted
from training.config.run_config import Dist, RunConfig

_CHECKPOINTS = ("last.pt", "best.pt")
_WORDS = ("auto", "none")
_CONTINUED = ("last.pt", "fresh.pt", "previous.pt")  # what a run goes on from, as in training/model/checkpoint.py


def check_files(config: RunConfig) -> None:
    """OptionError for weights that are not there, or a run folder that cannot be written. Creates nothing."""
    run = config.run
    if run.eval_only and run.checkpoint is not None:
        check_checkpoint("run.checkpoint", run.checkpoint)
        return
    if what := folder_fault(run.dir):
        raise OptionError(what, where="run.dir", remedy="give another folder")
    check_accepted(config)
    # A folder's own checkpoint goes on, and the one that it began from may be gone.
    if any((run.dir / name).exists() for name in _CONTINUED):
        return
    if isinstance(run.resume, Path):
        check_checkpoint("run.resume", run.resume, _WORDS)
        _check_outside(run.dir, "run.resume", run.resume, "rename it to last.pt and leave out --run.resume")
    if run.init_from is not None:
        check_checkpoint("run.init_from", run.init_from)
        _check_outside(run.dir, "run.init_from", run.init_from, "move it")


def _check_outside(folder: Path, where: str, path: Path, remedy: str) -> None:
    """OptionError for a file that a new run would move aside, so that the same command would not find it again."""
    if path.resolve().parent == folder.resolve():
        what = f"{path} is in the run folder, whose files a new run moves aside"
        raise OptionError(what, where=where, remedy=f"{remedy}, or give another --run.dir")


def check_checkpoint(where: str, path: Path, words: tuple[str, ...] = ()) -> None:
    """OptionError unless ``path`` is a file that can be read; ``words`` are what may be given in place of a path."""
    remedy = "give the last.pt or best.pt of a run folder"
    if path.is_dir():
        held = next((path / name for name in _CHECKPOINTS if (path / name).exists()), None)
        raise OptionError(f"{path} is a folder", where=where, remedy=f"give {held}" if held else remedy)
    if is_address(path):
        raise OptionError(f"{path} is an address", where=where, remedy="nothing is downloaded; give a path to the file")
    if not path.exists():
        near = nearest(path, words) if str(path).isalpha() else ""  # a path has a dot or a slash
        also = f", or {' or '.join(words)}" if words and not near else ""
        raise OptionError(f"{path}: no checkpoint here{near}", where=where, remedy="" if near else remedy + also)
    if not os.access(path, os.R_OK):
        raise OptionError(f"{path} cannot be read", where=where, remedy="look at its permissions")
    if not path.stat().st_size:
        raise OptionError(f"{path} is empty", where=where, remedy=remedy)


def unusable_folder(folder: Path, error: OSError) -> OptionError:
    """What to raise if ``error`` keeps the run folder from being made or written to."""
    return OptionError(f"{folder}: {error.strerror}", where="run.dir", remedy="give another folder")


def known_ranks(dist: Dist, environment: Mapping[str, str]) -> int | None:
    """The processes of the job if options or torchrun's variables give it; None if the number of GPUs decides."""
    if "RANK" in environment:
        return int(environment["WORLD_SIZE"])
    return dist.processes or (1 if dist.device == "cpu" else None)


def accumulation_steps(dist: Dist, ranks: int) -> int:
    """Batches that each of ``ranks`` processes accumulates for ``dist.emulate_gpus``. OptionError if they do not
    divide it."""
    if dist.emulate_gpus is None:
        return 1
    if dist.emulate_gpus % ranks:
        raise OptionError(f"{dist.emulate_gpus} is not a multiple of the {ranks} processes", where="dist.emulate_gpus")
    return dist.emulate_gpus // ranks
