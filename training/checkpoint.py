"""Checkpoints: one file, whole or absent, holding nothing but tensors and plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from data_tools.options import OptionError

VERSION = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside ``path``, then rename it there, so that ``path`` is the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save({"version": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """The state saved at ``path``, on the CPU. OptionError names the file and the remedy."""
    if not path.is_file():
        raise OptionError(f"{path}: no checkpoint here; give the last.pt or best.pt of a run folder")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged or hostile file
        raise OptionError(f"{path}: not a readable checkpoint ({type(error).__name__}); use another") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise OptionError(f"{path}: not a checkpoint of this program, or of another version; use another")
    return state
