"""The recipes in rn50_configs, read as the programs read them."""

from __future__ import annotations

from pathlib import Path

from data_tools.common.options import parse
from training.config.run_config import RunConfig
from training.config.schedule import Schedule

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "rn50_configs").glob("*.yaml"))}


def arguments(name: str) -> list[str]:
    """The command-line arguments that select a recipe."""
    return ["--config-file", str(RECIPES[name])]


def config(name: str, *argv: str) -> RunConfig:
    return parse(RunConfig, [*arguments(name), *argv], prog="test")


def schedule(name: str) -> Schedule:
    return config(name).schedule.parsed
