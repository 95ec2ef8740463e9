"""What OpenMP itself reports to have read when torch loads it, in fresh processes of the programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from data_tools.common.runtime import WAITING

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


def policies(arguments: tuple[str, ...], **chosen: str) -> list[str]:
    """The wait policy of every OpenMP that ``python arguments`` and its processes load."""
    inherited = {key: value for key, value in os.environ.items() if key not in WAITING}
    environment = inherited | {"OMP_DISPLAY_ENV": "true", "PYTHONPATH": str(ROOT)} | chosen
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    return re.findall(r"OMP_WAIT_POLICY *= *'(\w+)'", done.stderr)


@pytest.fixture
def evaluate(recipe: Path, tmp_path: Path) -> tuple[str, ...]:
    """A command that loads torch and then fails."""
    (tmp_path / "bad.pt").write_bytes(b"bad")
    return ("-m", "training.evaluate", str(tmp_path / "bad.pt"), "--config-file", str(recipe), "--dist.device=cpu")


def test_a_program_lets_waiting_threads_sleep(evaluate: tuple[str, ...]) -> None:
    assert set(policies(evaluate)) == {"PASSIVE"}
    assert set(policies(evaluate, OMP_WAIT_POLICY="active")) == {"ACTIVE"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "options", "loaded"), [((), ("--dist.processes=2",), 3), (TORCHRUN, (), 2)], ids=["launcher", "torchrun"]
)
def test_so_do_the_processes_of_a_job(
    start: tuple[str, ...], options: tuple[str, ...], loaded: int, evaluate: tuple[str, ...]
) -> None:
    found = policies((*start, *evaluate, *options))
    # torchrun itself is no program of ours; its environment is the user's.
    ours = found[1:] if start else found
    assert len(found) >= loaded
    assert set(ours) == {"PASSIVE"}
