"""Which process of a job this is, from what torchrun or SLURM put into the environment."""

import re
from collections.abc import Mapping, MutableMapping

from data_tools.common.errors import UserError

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_FIRST_PORT, _PORTS = 20_000, 20_000  # below those that the kernel gives out, from 32,768 on by default
_STEPS = 101  # has no factor in common with _PORTS
_SLURMS_OWN_STEPS = 1 << 31  # and more: batch scripts, interactive shells


def join_job(environment: MutableMapping[str, str]) -> bool:
    """Whether this process is one of a job's. SLURM's variables are translated into torchrun's, in ``environment``.

    A batch script itself, which has SLURM's variables too, is no task of ``srun``. Raises UserError if variables
    contradict each other, and for a script on several machines.
    """
    if "RANK" not in environment and "SLURM_PROCID" in environment and _slurm_tasks(environment) > 1:
        if step_of(environment):
            environment.update(from_slurm(environment))
        elif (machines := _number(environment, "SLURM_NNODES", 1)) > 1:
            what = f"the job has {machines} machines, but srun did not start this process"
            raise UserError(what, where="environment", remedy="start it with srun, as scripts/slurm.sbatch does")
    given = [key for key in _RANKS if key in environment]
    if not {"RANK", "WORLD_SIZE"} & set(given):
        return False
    missing = [key for key in _RANKS if key not in given]
    if missing:
        what = f"{', '.join(given)} set, but not {', '.join(missing)}"
        raise UserError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    for number, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if not 0 <= _number(environment, number) < _number(environment, count):
            what = f"{number}={environment[number]}, but {count}={environment[count]}"
            raise UserError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    if _number(environment, "WORLD_SIZE") > 1:
        port = _number(environment, "MASTER_PORT")
        if not (environment.get("MASTER_ADDR") and 0 < port < 1 << 16):
            what = f"the processes cannot meet at MASTER_ADDR={environment.get('MASTER_ADDR')}, MASTER_PORT={port}"
            raise UserError(what, where="environment", remedy="give the machine of process 0, and a free port of it")
    return True


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a task of ``srun``, one process a task. The first machine of its step keeps the store,
    unless MASTER_ADDR names another; UserError if neither is known and there are several."""
    tasks = _slurm_tasks(environment)
    machines = _number(environment, "SLURM_STEP_NUM_NODES", _number(environment, "SLURM_NNODES", 1))
    first = _first_machine(environment.get("SLURM_STEP_NODELIST", "")) if machines > 1 else "127.0.0.1"
    if not first and "MASTER_ADDR" not in environment:
        what = f"the tasks are on {machines} machines, but neither SLURM_STEP_NODELIST nor MASTER_ADDR is set"
        raise UserError(what, where="environment", remedy="set MASTER_ADDR to the name of the first")
    # Jobs and steps that run at the same time have numbers close to each other.
    place = _number(environment, "SLURM_JOB_ID", 0) * _STEPS + _number(environment, "SLURM_STEP_ID", 0)
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", environment["SLURM_PROCID"]),
        "LOCAL_WORLD_SIZE": str(-(-tasks // machines)),
        "MASTER_ADDR": environment.get("MASTER_ADDR", first),
        "MASTER_PORT": environment.get("MASTER_PORT", str(_FIRST_PORT + place % _PORTS)),
    }


def step_of(environment: Mapping[str, str]) -> str:
    """The srun step that this process is a task of, as ``job.step``; empty if it is none."""
    step = _number(environment, "SLURM_STEP_ID", 0 if "SLURM_STEP_NUM_TASKS" in environment else _SLURMS_OWN_STEPS)
    return f"{environment.get('SLURM_JOB_ID', '')}.{step}" if step < _SLURMS_OWN_STEPS else ""


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _first_machine(machines: str) -> str:
    """The first of a list like ``gpu[07-09,12],login``."""
    found = re.match(r"(?:[^,\[]|\[[^]]*])*", machines)
    return re.sub(r"\[([^],-]*)[^]]*]", r"\1", found[0] if found else "")


def _number(environment: Mapping[str, str], key: str, default: int | None = None) -> int:
    """A variable as a number. UserError if it is not one."""
    text = environment.get(key)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise UserError(f"{key}={text!r} is not a number", where="environment", remedy="start with torchrun or srun")
    return int(text)
