"""Checkpoints: written atomically, holding nothing but tensors and plain values.

A run folder keeps ``last.pt``, ``previous.pt`` (the one before) and ``best.pt``. The format is torch's zip file; its
CRC-32 of every member is verified before anything is read from it.
"""

from __future__ import annotations

import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from data_tools.common.files import partial_file, sync_folder
from data_tools.common.options import OptionError
from training.model import state_dicts

VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically."""
    with partial_file(path) as partial:
        write(partial, {"version": VERSION, **state})


def write(path: Path, content: Any) -> None:
    """``torch.save`` to ``path``, but with an OSError where the file cannot be written; torch's is a RuntimeError about
    positions in its archive."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def save_last(run_dir: Path, state: dict[str, Any]) -> None:
    """:func:`save` as ``last.pt``; the one that was there becomes ``previous.pt`` once the new one is on the disk."""
    fresh = run_dir / "fresh.pt"
    save(fresh, state)
    last = run_dir / LAST
    if last.exists():
        last.replace(run_dir / PREVIOUS)
    fresh.replace(last)
    sync_folder(run_dir)


def load(path: Path) -> dict[str, Any]:
    """The state saved at ``path``, on the CPU. OptionError if it cannot be read."""
    return check_version(path, read(path))


class Skipped:
    """What stands for an object of another program's class; it takes what such an object is made with, and drops it."""

    def __new__(cls, *args: object, **kwargs: object) -> Skipped:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


def read(path: Path, *, skip_objects: bool = False) -> Any:
    """Any tensors and plain values that torch saved at ``path``, on the CPU. OptionError if they cannot be read.

    With ``skip_objects``, what other programs pickle beside their weights (arguments, callbacks) is read as `Skipped`;
    its classes are neither imported nor called.
    """
    if not path.is_file():
        raise OptionError("no checkpoint here", where=path, remedy="give the last.pt or best.pt of a run folder")
    try:
        if zipfile.is_zipfile(path):  # the format before torch 1.6 has no checksums
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} does not match its checksum")
        with (
            warnings.catch_warnings(action="ignore"),  # of torch, about a pickle of another version
            torch.serialization.safe_globals([(Skipped, name) for name in _objects(path)] if skip_objects else []),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many types for a damaged or hostile file
        raise _unreadable(path, error) from error


def _objects(path: Path) -> list[str]:
    """The classes and functions that the file names and torch does not load, sorted; of old formats, none."""
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) if zipfile.is_zipfile(path) else []


def _unreadable(path: Path, error: Exception) -> OptionError:
    """Without torch's own message, which fills a screen and advises to run what the file says."""
    if not path.stat().st_size:
        return OptionError("not a readable checkpoint: empty", where=path)
    if type(error).__name__ == "UnpicklingError":
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if objects := [named[1]] if named else _objects(path)[:1]:
            what = f"not a readable checkpoint: it holds a Python object, {objects[0]}, which could run code"
            return OptionError(what, where=path, remedy=state_dicts.REMEDY)
        return OptionError("not a readable checkpoint: not written by torch.save, or damaged", where=path)
    reason = " ".join(str(error).split())[:200]
    return OptionError(f"not a readable checkpoint ({type(error).__name__}: {reason})", where=path)


def check_version(path: Path, state: Any) -> dict[str, Any]:
    """``state`` if :func:`save` wrote it; else OptionError."""
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise OptionError("not a checkpoint of this program, or of another version", where=path, remedy="use another")
    return state


def load_newest(run_dir: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest readable checkpoint of a run folder and its path; None if there is no checkpoint.

    A damaged ``last.pt`` is reported on standard error and the one before is used. OptionError if none is readable.
    """
    # fresh.pt exists if the machine stopped before it was renamed.
    paths = [path for path in (run_dir / LAST, run_dir / "fresh.pt", run_dir / PREVIOUS) if path.exists()]
    damaged: list[OptionError] = []
    for path in paths:
        try:
            found = load(path)
        except OptionError as error:
            damaged.append(error)
            continue
        for each in damaged:
            print(f"note: {each}; going back to the checkpoint before", file=sys.stderr)
        return found, path
    if damaged:
        raise OptionError(f"{damaged[0]}; nothing older is left", where="run.dir", remedy="give another --run.dir")
    return None
