"""The ranks of a job, from the variables of torchrun and SLURM."""

from __future__ import annotations

import pytest

from training.distributed.ranks import JobError, join_job

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_NTASKS": "12",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "3",
    "SLURM_JOB_ID": "50123",
    "MASTER_ADDR": "gpu07",
}


def test_srun_task_becomes_its_rank() -> None:
    environment = dict(SLURM)
    assert join_job(environment)
    assert {key: environment[key] for key in environment.keys() - SLURM.keys()} == {
        "RANK": "9",
        "WORLD_SIZE": "12",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_PORT": "30123",
    }


def test_tasks_on_several_machines_need_an_address() -> None:
    environment = {key: value for key, value in SLURM.items() if key != "MASTER_ADDR"}
    with pytest.raises(JobError, match=r"3 machines, but MASTER_ADDR is not set; use scripts/slurm\.sbatch"):
        join_job(environment)


def test_procid_and_ntasks_are_enough_on_one_machine() -> None:
    environment = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    assert join_job(environment)
    assert environment["LOCAL_RANK"] == "1"
    assert environment["LOCAL_WORLD_SIZE"] == "2"
    assert environment["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    "environment", [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"SLURM_NTASKS": "8"}, {"MASTER_ADDR": "here"}]
)
def test_process_without_a_job_starts_its_own(environment: dict[str, str]) -> None:
    assert not join_job(environment)


def test_torchrun_inside_srun_counts() -> None:
    environment = TORCHRUN | SLURM
    assert join_job(environment)
    assert environment["RANK"] == "3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": None}, "WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE set, but not RANK"),
        ({"LOCAL_WORLD_SIZE": None}, "not LOCAL_WORLD_SIZE"),
        ({"RANK": "4"}, "RANK=4, but WORLD_SIZE=4"),
        ({"RANK": "first"}, "RANK='first' is not a number"),
    ],
)
def test_contradicting_variables_are_refused(change: dict[str, str | None], message: str) -> None:
    environment = {key: value for key, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(JobError, match=message):
        join_job(environment)
