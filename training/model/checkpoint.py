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
from training.model import state_dicts

logger = logging.getLogger(__name__)
VERSION = 2
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
_POINTER = "a pointer of Git LFS, without the file's content"


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
    """Stands in for an object of another program's class; it accepts what such an object is made with, and drops it."""

    def __new__(cls, *args: object, **kwargs: object) -> Skipped:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


def _empty_dict(*args: object) -> dict[Any, Any]:
    return {}


def _empty_list(*args: object) -> list[Any]:
    return []


# torch fills no other containers than dicts and lists, and OmegaConf's objects, as Hydra's users save, hold the first.
_CONTAINERS = {"collections.defaultdict": _empty_dict, "collections.deque": _empty_list}


def read(path: Path, *, skip_objects: bool = False) -> Any:
    """Any tensors and plain values that torch saved at ``path``, on the CPU. OptionError if they cannot be read.

    With ``skip_objects``, what other programs pickle beside their weights (arguments, callbacks) is read as `Skipped`;
    its classes are neither imported nor called.
    """
    if not path.is_file():
        raise OptionError("no checkpoint here", where=path, remedy="give the last.pt or best.pt of a run folder")
    skipped: list[Any] = [(_CONTAINERS.get(name, Skipped), name) for name in _objects(path)] if skip_objects else []
    try:
        if zipfile.is_zipfile(path):  # the format before torch 1.6 has no checksums
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} does not match its checksum")
        with (
            warnings.catch_warnings(action="ignore"),  # of torch, about a pickle of another version
            torch.serialization.safe_globals(skipped),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many types for a damaged or hostile file
        raise _unreadable(path, error) from error


def _objects(path: Path) -> list[str]:
    """The classes and functions that the file names and torch does not load, sorted; of old formats, none."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) if zipfile.is_zipfile(path) else []
    except Exception:  # as many types as torch.load, which is to say what is wrong
        return []


def _unreadable(path: Path, error: Exception) -> OptionError:
    """Without torch's own message, which fills a screen and advises running what the file says."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    objects = [named[1]] if named else _objects(path)[:1]
    if objects and type(error).__name__ == "UnpicklingError":
        what = f"not a readable checkpoint: it holds a Python object, {objects[0]}, which could run code"
        return OptionError(what, where=path, remedy=state_dicts.REMEDY)
    reason, remedy = _damage(path, error), "copy or fetch it again, or give another file"
    if reason == _POINTER:
        remedy = "fetch the file with `git lfs pull`"
    return OptionError(f"not a readable checkpoint: {reason}", where=path, remedy=remedy)


def _damage(path: Path, error: Exception) -> str:
    """Why the file at ``path``, which holds no unknown object, cannot be read."""
    if isinstance(error, OSError | MemoryError):
        return getattr(error, "strerror", None) or type(error).__name__
    if "does not match its checksum" in str(error):
        return str(error)
    if "torchscript" in str(error).lower():
        return "a TorchScript program"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return _POINTER
    return (
        "cut short"
        if head.startswith(b"PK") and not zipfile.is_zipfile(path)
        else "not written by torch.save, or damaged"
    )


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
            logger.info("note: %s; going back to the previous checkpoint", each.fault)
        return found, path
    if damaged:
        what = f"{damaged[0].fault}; there is no older one"
        raise OptionError(what, where="run.dir", remedy="give another --run.dir")
    return None
