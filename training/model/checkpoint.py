"""Checkpoints: written atomically, holding nothing but tensors and plain values.

A run folder keeps ``last.pt``, ``previous.pt`` (the one before) and ``best.pt``. The format is torch's zip file; its
CRC-32 of every member is verified before anything is read from it.
"""

import io
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
VERSION = 5
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
FRESH = "fresh.pt"  # is there if the machine stopped before it became last.pt
WEIGHTS_ALONE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"


def save(path: Path, state: dict[str, Any]) -> None:
    """OSError where it cannot be written; torch's is a RuntimeError about positions in its archive."""
    with partial_file(path) as partial, partial.open("wb") as file:
        try:
            torch.save({"version": VERSION, **state}, file)
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


class DamagedError(OptionError):
    """What a file holds is not what was written to it: cut short, or a part without its checksum."""


def load(path: Path) -> dict[str, Any]:
    """The state saved at ``path``, on the CPU. OptionError if it cannot be read, DamagedError if it is damaged."""
    return check_version(path, read(path))


def read(path: Path) -> Any:
    """Any tensors and plain values that torch saved at ``path``, on the CPU. OptionError if they cannot be read,
    DamagedError if they are damaged."""
    content = b""
    try:
        content = path.read_bytes()  # whatever fails from here on is not the disk's fault
        if zipfile.is_zipfile(io.BytesIO(content)):  # the format before torch 1.6 has no checksums
            _check_digests(content)
        with warnings.catch_warnings(action="ignore"):  # of torch, about a pickle of another version
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or hostile file
        kind, what, remedy = _fault(content, error)
        raise kind(f"not a readable checkpoint: {what}", where=path, remedy=remedy) from error


def _check_digests(content: bytes) -> None:
    """BadZipFile unless every part of the zip file matches its CRC-32."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            damaged = file.testzip()
    except Exception as error:  # a damaged directory raises many types
        raise zipfile.BadZipFile(str(error)) from error
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")


def _fault(content: bytes, error: Exception) -> tuple[type[OptionError], str, str]:
    """The kind of error, what is wrong with the file, and the remedy, without torch's own message, which fills a screen
    and advises running what the file says."""
    remedy = "copy or download it again, or give another file"
    if isinstance(error, OSError):
        return OptionError, error.strerror or str(error), remedy
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return OptionError, "it does not fit into memory", "free some memory"
    if isinstance(error, zipfile.BadZipFile):
        return DamagedError, str(error), remedy
    named, is_zip = re.search(r"GLOBAL ([\w.]+)", str(error)), zipfile.is_zipfile(io.BytesIO(content))
    if named or (is_zip and type(error).__name__ == "UnpicklingError"):
        name = named[1] if named else "filled in an unusual way"
        return OptionError, f"it holds a Python object, {name}, which could run code", WEIGHTS_ALONE
    if content.startswith(b"version https://git-lfs"):
        return OptionError, "a pointer of Git LFS, without the file's content", "fetch the file with `git lfs pull`"
    # Torch looks at more of a zip file's directory than Python does.
    is_torchs = is_zip and any(name.endswith("/data.pkl") for name in zipfile.ZipFile(io.BytesIO(content)).namelist())
    misread = "failed reading zip archive" in str(error) or (is_torchs and "inline_container" in str(error))
    if is_zip and not misread and not isinstance(error, UnicodeDecodeError):
        if is_torchs:
            return OptionError, "it holds more than tensors and plain values", WEIGHTS_ALONE
        return OptionError, "not written by torch.save", remedy
    is_cut = content.startswith(b"PK") and not is_zip
    what = "cut short" if is_cut else "not written by torch.save, or damaged" if content else "empty"
    return DamagedError, what, remedy


def check_version(path: Path, state: Any) -> dict[str, Any]:
    """``state`` if :func:`save` wrote it; else OptionError."""
    if not isinstance(state, dict) or not isinstance(version := state.get("version"), int):
        raise OptionError("not a checkpoint of this program", where=path, remedy="give the last.pt or best.pt of a run")
    if version != VERSION:
        what = f"a checkpoint of version {version}, and this program reads version {VERSION}"
        raise OptionError(what, where=path, remedy="use the version that wrote it, or give another checkpoint")
    return state


def load_newest(run_dir: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint of a run folder that is not damaged, and its path; None if there is no checkpoint.

    A damaged ``last.pt`` is reported on standard error and the one before is used. OptionError if there is none, or if
    one that may be intact cannot be read: a run that went back to an older one would replace it.
    """
    damaged: list[OptionError] = []
    for path in (run_dir / LAST, run_dir / FRESH, run_dir / PREVIOUS):
        try:
            found = load(path)
        except DamagedError as error:
            damaged.append(error)
            continue
        except OptionError as error:
            if isinstance(error.__cause__, FileNotFoundError) and not path.is_symlink():
                continue
            remedy = "make it readable, or move it away to go back to an older one"
            raise OptionError(
                error.fault, where="run.dir", remedy=remedy if error.__cause__ else error.remedy
            ) from error
        for each in damaged:
            logger.info("note: %s; going back to the previous checkpoint", each.fault)
        return found, path
    if damaged:
        what = f"{damaged[0].fault}; there is no older one"
        raise OptionError(what, where="run.dir", remedy="give another --run.dir")
    return None
