"""The official ILSVRC 2012 archives, read in place: a tar of 1000 tars, a flat tar, and the devkit's labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_tools.index import Collector

Devkit = list[str]  # the wnid of validation image 1, 2, ...


def is_devkit(path: Path) -> bool:
    return False


def recognise(path: Path) -> str:
    return ""


def read_devkit(path: Path) -> Devkit:
    raise NotImplementedError


def read_train(collector: Collector, path: Path) -> None:
    raise NotImplementedError


def read_val(collector: Collector, path: Path, devkit: Devkit | None) -> None:
    raise NotImplementedError
