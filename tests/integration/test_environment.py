"""Making the environment, and calling a program outside of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT


@pytest.mark.parametrize(
    "program",
    ["write_datasets.py", "train_imagenet.py", "-m data_tools.verify", "-m data_tools.doctor", "-m training.plan"],
)
def test_python_without_the_packages_is_refused_in_one_line(program: str) -> None:
    """`-S` leaves out site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", *program.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"{program.removeprefix('-m ')}: error: {sys.executable} lacks the packages")
    assert "; use .venv/bin/python" in done.stderr or "`make env`" in done.stderr


def would_run(folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "-n", "env", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_make_env_builds_native_code_that_is_gone(tmp_path: Path) -> None:
    """`make clean` and a newer branch leave an environment that is made, and uv's cache holds the build."""
    (tmp_path / "data_tools/native").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "uv.lock", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    build = "sync --locked --compile-bytecode --reinstall-package imagenet18-ffcv"
    assert build in would_run(tmp_path)
    made, library = tmp_path / ".venv/made", tmp_path / "data_tools/native/_native.so"
    made.parent.mkdir()
    made.write_text("export\n")
    assert f"{build} --extra export\n" in would_run(tmp_path)
    library.touch()
    assert build not in would_run(tmp_path)
    assert f"{build} --extra wandb --extra parquet\n" in would_run(tmp_path, "EXTRAS=wandb parquet")
