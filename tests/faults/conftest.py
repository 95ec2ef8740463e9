"""A tiny recipe and what it ends in when nothing disturbs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training_runs import RECIPE, Run


@pytest.fixture(scope="session")
def recipe(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(betons=betons))
    return path


@pytest.fixture(scope="session")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    Run(recipe, run_dir).finish()
    return run_dir
