"""Which process of a job this is, from what torchrun or SLURM put into the environment."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from data_tools.common.errors import UserError

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_FIRST_PORT, _PORTS = 20_000, 20_000  # below those that the kernel gives out, from 32,768 on by default


class JobError(UserError, ValueError):
    """An environment that does not say which process of a job this is."""


def join_job(environment: MutableMapping[str, str]) -> bool:
    """Whether this process is one of a job's. SLURM's variables are translated into torchrun's, in ``environment``.

    Raises JobError if they contradict each other.
    """
    if "RANK" not in environment and _number(environment, "SLURM_PROCID", -1) >= 0 and _slurm_tasks(environment) > 1:
        environment.update(from_slurm(environment))
    given = [key for key in _RANKS if key in environment]
    if not {"RANK", "WORLD_SIZE"} & set(given):
        return False
    missing = [key for key in _RANKS if key not in given]
    if missing:
        what = f"{', '.join(given)} set, but not {', '.join(missing)}"
        raise JobError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    for number, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if not 0 <= _number(environment, number) < _number(environment, count):
            what = f"{number}={environment[number]}, but {count}={environment[count]}"
            raise JobError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    return True


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a task of ``srun``, one process a task. JobError if the tasks are on several machines
    and none is named as MASTER_ADDR, which keeps the store."""
    tasks = _slurm_tasks(environment)
    machines = _number(environment, "SLURM_STEP_NUM_NODES", _number(environment, "SLURM_NNODES", 1))
    if machines > 1 and "MASTER_ADDR" not in environment:
        what = f"the tasks are on {machines} machines, but MASTER_ADDR is not set"
        remedy = "use scripts/slurm.sbatch, or set it to the name of the first"
        raise JobError(what, where="environment", remedy=remedy)
    port = _FIRST_PORT + _number(environment, "SLURM_JOB_ID", 0) % _PORTS
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", environment["SLURM_PROCID"]),
        "LOCAL_WORLD_SIZE": str(-(-tasks // machines)),
        "MASTER_ADDR": environment.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _number(environment: Mapping[str, str], key: str, default: int | None = None) -> int:
    """A variable as a number. JobError if it is not one."""
    text = environment.get(key)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise JobError(f"{key}={text!r} is not a number", where="environment", remedy="start with torchrun or srun")
    return int(text)
