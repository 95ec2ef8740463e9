"""Checkpoints: written atomically, holding nothing but tensors and plain values.

A run folder keeps ``last.pt``, ``previous.pt`` (the one before) and ``best.pt``. The format is torch's zip file; its
CRC-32 of every member is verified before anything is read from it.
"""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from data_tools.common.files import partial_file, sync_folder
from data_tools.common.options import OptionError

logger = logging.getLogger(__name__)
VERSION = 2
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
FRESH = "fresh.pt"  # is there if the machine stopped before it became last.pt
WEIGHTS_ALONE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"


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
    save(run_dir / FRESH, state)
    last = run_dir / LAST
    if last.exists():
        last.replace(run_dir / PREVIOUS)
    (run_dir / FRESH).replace(last)
    sync_folder(run_dir)


def load(path: Path) -> dict[str, Any]:
    """The state saved at ``path``, on the CPU. OptionError if it cannot be read."""
    return check_version(path, read(path))


def read(path: Path) -> Any:
    """Any tensors and plain values that torch saved at ``path``, on the CPU. OptionError if they cannot be read."""
    try:
        if zipfile.is_zipfile(path):  # the format before torch 1.6 has no checksums
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        with warnings.catch_warnings(action="ignore"):  # of torch, about a pickle of another version
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many types for a damaged or hostile file
        what, remedy = _fault(path, error)
        raise OptionError(f"not a readable checkpoint: {what}", where=path, remedy=remedy) from error


def _fault(path: Path, error: Exception) -> tuple[str, str]:
    """What is wrong with the file, and the remedy, without torch's own message, which fills a screen and advises
    running what the file says."""
    remedy = "copy or fetch it again, or give another file"
    if isinstance(error, OSError):
        return error.strerror or str(error), remedy
    if isinstance(error, zipfile.BadZipFile):
        return str(error), remedy
    named, is_zip = re.search(r"GLOBAL ([\w.]+)", str(error)), zipfile.is_zipfile(path)
    if named or (is_zip and type(error).__name__ == "UnpicklingError"):
        name = named[1] if named else "filled in an unusual way"
        return f"it holds a Python object, {name}, which could run code", WEIGHTS_ALONE
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, without the file's content", "fetch the file with `git lfs pull`"
    is_cut = head.startswith(b"PK") and not is_zip
    return "cut short" if is_cut else "not written by torch.save, or damaged" if head else "empty", remedy


def check_version(path: Path, state: Any) -> dict[str, Any]:
    """``state`` if :func:`save` wrote it; else OptionError."""
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise OptionError("not a checkpoint of this program, or of another version", where=path, remedy="use another")
    return state


def load_newest(run_dir: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest readable checkpoint of a run folder and its path; None if there is no checkpoint.

    A damaged ``last.pt`` is reported on standard error and the one before is used. OptionError if none is readable.
    """
    damaged: list[OptionError] = []
    for path in (each for each in (run_dir / LAST, run_dir / FRESH, run_dir / PREVIOUS) if each.exists()):
        try:
            found = load(path)
        except OptionError as error:
            damaged.append(error)
            continue
        for each in damaged:
            logger.info("note: %s; going back to the previous checkpoint", each.fault)
        return found, path
    if damaged:
        what = f"{damaged[0].fault}; there is no older one"
        raise OptionError(what, where="run.dir", remedy="give another --run.dir")
    return None
