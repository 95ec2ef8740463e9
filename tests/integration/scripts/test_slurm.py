"""scripts/slurm.sbatch with stand-ins for SLURM's programs: it continues, is queued again, or ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.processes import wait_until
from helpers.training_runs import BATCHES, batches_done, training_arguments

SCRIPT = ROOT / "scripts/slurm.sbatch"
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
command = [word for word in sys.argv[1:] if not word.startswith("--kill")] if sys.argv[1].startswith("--kill") else None
tasks = int(os.environ["SLURM_NTASKS"])
step = {{"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}}
own = [os.environ | step | {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}} for n in range(tasks)]
started = [subprocess.Popen(command, env=environment) for environment in own]
open("srun.pid", "w").write(str(os.getpid()))
signal.signal(signal.SIGUSR1, lambda number, frame: [task.send_signal(number) for task in started])
sys.exit(max(task.wait() for task in started))
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(folder: Path, *options: str, tasks: int) -> subprocess.Popen[str]:
    """The job's script in `folder`, with stand-ins of srun and scontrol; what scontrol is told goes to a file."""
    program(folder / "bin/srun", SRUN)
    program(folder / "bin/scontrol", f'#!/bin/sh\necho "$@" >> {folder}/scontrol.txt\n')
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "4711",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NNODES": "1",
        "MAX_RESTARTS": "2",
    }
    command = ["bash", str(SCRIPT), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("statuses", "status", "tries", "requeued"),
    [("0", 0, 1, False), ("2", 2, 1, False), ("75", 75, 1, True), ("1 0", 0, 2, False), ("1 1 1 1", 1, 3, False)],
)
def test_job_ends_starts_again_or_is_requeued_by_the_status(
    tmp_path: Path, statuses: str, status: int, tries: int, requeued: bool
) -> None:
    count = f"{tmp_path}/tries"
    text = f'#!/bin/bash\necho >> {count}; set -- {statuses}; n=$(wc -l < {count}); exit "${{!n}}"\n'
    program(tmp_path / ".venv/bin/python", text)
    job = start(tmp_path, "recipe.yaml", tasks=1)
    job.communicate(timeout=60)
    assert job.returncode == status
    assert len(Path(count).read_text().splitlines()) == tries
    told = tmp_path / "scontrol.txt"
    assert (told.read_text() if told.exists() else "") == ("requeue 4711\n" if requeued else "")


@pytest.mark.parametrize(("status", "seconds_left", "requeued"), [(75, 600, False), (143, 600, False), (75, 0, True)])
def test_cancelled_job_is_neither_requeued_nor_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, seconds_left: int, requeued: bool
) -> None:
    # scancel sends TERM to the tasks and to the script, which is the parent of srun; so does SLURM at the time limit.
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + seconds_left))
    task = f'#!/bin/bash\necho >> {tmp_path}/tries\nkill -TERM "$(cut -d" " -f4 /proc/$PPID/stat)"\nexit {status}\n'
    program(tmp_path / ".venv/bin/python", task)
    job = start(tmp_path, "recipe.yaml", tasks=1)
    job.communicate(timeout=60)
    assert job.returncode == status
    assert len((tmp_path / "tries").read_text().splitlines()) == 1
    assert (tmp_path / "scontrol.txt").exists() == requeued


@pytest.mark.slow
def test_warned_job_saves_is_requeued_and_continues(recipe: Path, tmp_path: Path) -> None:
    for name in ("train_imagenet.py", "training", "data_tools", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    options = training_arguments(recipe, tmp_path / "run", "--run.checkpoint_minutes=60")[1:]
    job = start(tmp_path, *options, tasks=2)
    wait_until(lambda: (tmp_path / "run/epochs.csv").exists(), 240)
    os.kill(int((tmp_path / "srun.pid").read_text()), 10)  # SIGUSR1
    _, err = job.communicate(timeout=120)
    assert job.returncode == 75, err
    assert err.count("the same command continues") == 1
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 4711\n"
    assert 0 < batches_done(tmp_path / "run") < BATCHES
    job = start(tmp_path, *options, tasks=2)
    _, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert batches_done(tmp_path / "run") == BATCHES
