"""The recipes in rn50_configs as the programs read them, and one that trains a ResNet-18 in seconds on a CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_tools.common.options import OptionError, Section, mistakes_in
from helpers import ROOT
from training.config.run_config import RunConfig, from_argv
from training.config.schedule import Schedule

RECIPES = {path.stem: path for path in sorted((ROOT / "rn50_configs").glob("*.yaml"))}
# 5, 5 and 10 batches of the 40 training images.
TINY_PHASES: tuple[dict[str, Any], ...] = (
    {"epochs": [0, 2], "px": 32, "batch_per_gpu": 8, "data": 160, "val_batch": 5}
    | {"lr": [{"epochs": [0, 2], "from": 0.01, "to": 0.02}]},
    {"epochs": [2, 3], "px": 48, "batch_per_gpu": 4, "data": "full", "val_batch": 4}
    | {"min_scale": 0.5, "rectangular_val": True, "lr": [{"epochs": [2, 3], "from": 0.002, "to": 0.001}]},
)
ONE_EPOCH = (TINY_PHASES[0] | {"epochs": [0, 1], "lr": [{"epochs": [0, 1], "from": 0.01, "to": 0.02}]},)


def write_recipe(path: Path, phases: Sequence[dict[str, Any]] = TINY_PHASES, **sections: dict[str, Any]) -> Path:
    """The tiny recipe with other ``phases``, or with options added to its sections."""
    recipe: dict[str, dict[str, Any]] = {
        "model": {"arch": "resnet18"},
        "train": {"amp": "fp32", "ema": 0.5, "mixup": 0.2},
        "dist": {"device": "cpu"},
        "run": {"deterministic": True},
        "data": {"workers": 1},
        "schedule": {"phases": list(phases)},
    }
    for name, options in sections.items():
        recipe[name] |= options
    path.write_text(json.dumps(recipe))  # which is YAML
    return path


def arguments(name: str) -> list[str]:
    """The command-line arguments that select a recipe."""
    return ["--config-file", str(RECIPES[name])]


def config(name: str, *argv: str) -> RunConfig:
    return from_argv([*arguments(name), *argv])


def schedule(name: str) -> Schedule:
    return config(name).schedule


def mistakes(schema: type[Section], values: dict[str, Any]) -> list[OptionError]:
    """What is wrong with the ``values`` of a section."""
    try:
        schema(**values)
    except ValidationError as error:
        return mistakes_in(schema, error)
    return []
