"""The ranks of a job, from the variables of torchrun and SLURM."""

from __future__ import annotations

import pytest

from data_tools.common.errors import UserError
from training.distributed.ranks import join_job

STORE = {"MASTER_ADDR": "here", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"} | STORE
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_NTASKS": "12",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "3",
    "SLURM_JOB_ID": "50123",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08,12]",
}


def test_srun_task_becomes_its_rank() -> None:
    environment = dict(SLURM)
    assert join_job(environment)
    assert {key: environment[key] for key in environment.keys() - SLURM.keys()} == {
        "RANK": "9",
        "WORLD_SIZE": "12",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "22425",  # 20000 + (50123 x 101 + 2) modulo 20000
    }


@pytest.mark.parametrize(
    ("machines", "first"),
    [("n1,n2", "n1"), ("n[3,5-9]", "n3"), ("r[01-02]n[1-4]-ib,x", "r01n1-ib"), ("a", "a"), ("gpu-[a]x", "gpu-ax")],
)
def test_store_is_on_the_first_machine_of_the_step(machines: str, first: str) -> None:
    environment = SLURM | {"SLURM_STEP_NODELIST": machines}
    assert join_job(environment)
    assert environment["MASTER_ADDR"] == first


def test_given_address_of_the_store_counts() -> None:
    environment = SLURM | {"MASTER_ADDR": "gpu08", "MASTER_PORT": "29500"}
    assert join_job(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("gpu08", "29500")


def test_tasks_on_several_machines_need_an_address() -> None:
    environment = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}
    with pytest.raises(UserError, match="neither SLURM_STEP_NODELIST nor MASTER_ADDR is set"):
        join_job(environment)


def test_jobs_and_steps_at_the_same_time_have_ports_of_their_own() -> None:
    environments = [
        SLURM | {"SLURM_JOB_ID": str(50_000 + job), "SLURM_STEP_ID": str(step)}
        for job in range(50)
        for step in range(9)
    ]
    assert all(join_job(each) for each in environments)
    assert len({each["MASTER_PORT"] for each in environments}) == 450


def test_batch_script_without_srun_starts_its_own_processes_on_one_machine_alone() -> None:
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "1"}
    assert not join_job(dict(script))
    assert not join_job(script | {"SLURM_STEP_ID": "4294967291"})  # the number of the script's own step
    with pytest.raises(UserError, match="the job has 2 machines, but srun did not start this process"):
        join_job(script | {"SLURM_NNODES": "2"})


def test_number_and_count_of_tasks_are_enough_on_one_machine() -> None:
    environment = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
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
        ({"MASTER_ADDR": None}, "cannot meet at MASTER_ADDR=None, MASTER_PORT=29500"),
        ({"MASTER_PORT": "99999"}, "cannot meet at MASTER_ADDR=here, MASTER_PORT=99999"),
        ({"MASTER_PORT": None}, "MASTER_PORT=None is not a number"),
    ],
)
def test_contradicting_variables_are_refused(change: dict[str, str | None], message: str) -> None:
    environment = {key: value for key, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        join_job(environment)
