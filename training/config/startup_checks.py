"""Checks that need no torch, which takes seconds to load: a run's files, and how its batch is divided."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from data_tools.common.files import folder_fault, is_address
from data_tools.common.options import OptionError
from training.config.run_config import Dist, RunConfig

_CHECKPOINTS = ("last.pt", "best.pt")
_CONTINUED = ("last.pt", "fresh.pt", "previous.pt")  # what a run goes on from, as in training/model/checkpoint.py
# Written after the first of those.
_RUN_FILES = ("best.pt", "epochs.csv", "steps.csv", "config.json", "environment.json", "events.out.tfevents*")


def check_files(config: RunConfig) -> None:
    """OptionError for missing weights, and for a run folder that cannot be written to, or that has another run's files
    and no checkpoint to continue from. Creates nothing."""
    folder, init_from = config.run.dir, config.run.init_from
    is_utf8 = str(folder).encode(errors="ignore") == os.fsencode(folder)
    if what := folder_fault(folder) or ("" if is_utf8 else f"{folder} is not UTF-8, which TensorBoard needs"):
        raise OptionError(what, where="run.dir", remedy="give another folder")
    # A folder's own checkpoint goes on, and the weights that it began from may be gone.
    if any((folder / name).exists() for name in _CONTINUED):
        return
    if found := next((path.name for name in _RUN_FILES for path in folder.glob(name)), None):
        what = f"{folder} holds {found} of another run, but no checkpoint to continue from"
        raise OptionError(what, where="run.dir", remedy="give another --run.dir")
    if init_from is not None:
        check_checkpoint("run.init_from", init_from)


def check_checkpoint(where: str, path: Path) -> None:
    """OptionError unless ``path`` is a file that can be read."""
    remedy = "give the last.pt or best.pt of a run folder"
    if path.is_dir():
        held = next((path / name for name in _CHECKPOINTS if (path / name).exists()), None)
        raise OptionError(
            f"{path} is a folder", where=where, remedy=f"give {shlex.quote(str(held))}" if held else remedy
        )
    if is_address(path):
        raise OptionError(f"{path} is an address", where=where, remedy="nothing is downloaded; give a path to the file")
    if not path.exists():
        raise OptionError(f"{path}: no checkpoint here", where=where, remedy=remedy)
    if not os.access(path, os.R_OK):
        raise OptionError(f"{path} cannot be read", where=where, remedy="check its permissions")
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
        what = f"{dist.emulate_gpus} is not a multiple of the {ranks} processes"
        raise OptionError(what, where="dist.emulate_gpus", remedy="give a multiple, or another --dist.processes")
    return dist.emulate_gpus // ranks
