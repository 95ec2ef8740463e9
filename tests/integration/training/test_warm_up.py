"""A training takes from the cache what a warm-up compiled; on the CPU, which has to be asked to compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import training_script

from training import warm_up


@pytest.mark.slow
def test_training_after_a_warm_up_compiles_nothing(betons: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "one.yaml", ONE_EPOCH)
    options = "--train.compile=default", "--dist.processes=2"
    training = training_script(recipe, tmp_path / "run", *options, f"--data.dir={betons}")
    outputs = []
    for command in (
        ["-m", "training.warm_up", "--config-file", str(recipe), *options, "--classes=4"],
        training,
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout + done.stderr)
    assert "32 px, 8 images: compiled in " in outputs[0]
    (ready,) = (line for line in outputs[1].splitlines() if "ready for the first step after " in line)
    assert "compiled" not in ready


def test_nothing_is_compiled_on_a_cpu_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "one.yaml", ONE_EPOCH, dist={"processes": 2})
    assert warm_up.main(["--config-file", str(recipe)]) == 0
    assert capsys.readouterr().out == "nothing to compile: train.compile=auto is off on a CPU\n"
