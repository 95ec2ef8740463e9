"""The ranks of a job, from the variables of torchrun and SLURM."""

from __future__ import annotations

import pytest

from training.distributed.ranks import LaunchError, first_host, join_job

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_NTASKS": "12",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_NNODES": "3",
    "SLURM_TASKS_PER_NODE": "4(x2),2(x2)",
    "SLURM_JOB_NODELIST": "gpu[07-09,12],big1",
    "SLURM_JOB_ID": "50123",
}


def test_srun_task_becomes_its_rank() -> None:
    environment = dict(SLURM)
    assert join_job(environment)
    assert {key: environment[key] for key in environment.keys() - SLURM.keys()} == {
        "RANK": "9",
        "WORLD_SIZE": "12",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "30123",
    }


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
    with pytest.raises(LaunchError, match=message):
        join_job(environment)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("n1", "n1"), ("n[3,5-7]", "n3"), ("r1-n[001-004]-ib,x", "r1-n001-ib"), ("a,b", "a"), ("n[1-2]", "n1")],
)
def test_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
