"""Which process of a job this is, from what torchrun or SLURM put into the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

from data_tools.common.errors import UserError

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_FIRST_PORT, _PORTS = 20_000, 20_000  # below those that the kernel gives out, from 32,768 on by default


class LaunchError(UserError, ValueError):
    """An environment that does not say which process of a job this is."""


def join_job(environment: MutableMapping[str, str]) -> bool:
    """Whether this process is one of a job's. SLURM's variables are translated into torchrun's, in ``environment``.

    Raises LaunchError if they contradict each other.
    """
    if "RANK" not in environment and int_of(environment, "SLURM_PROCID", -1) >= 0 and _slurm_tasks(environment) > 1:
        environment.update(from_slurm(environment))
    given = [key for key in _RANKS if key in environment]
    if not {"RANK", "WORLD_SIZE"} & set(given):
        return False
    missing = [key for key in _RANKS if key not in given]
    if missing:
        what = f"{', '.join(given)} set, but not {', '.join(missing)}"
        raise LaunchError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    for number, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if not 0 <= int_of(environment, number) < int_of(environment, count):
            what = f"{number}={environment[number]}, but {count}={environment[count]}"
            raise LaunchError(what, where="environment", remedy="start with torchrun or srun, or unset them")
    return True


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a task of ``srun``, one process a task; the first task's machine keeps the store."""
    node, tasks = int_of(environment, "SLURM_NODEID", 0), _slurm_tasks(environment)
    per_node = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE"))
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    host = first_host(hosts) if int_of(environment, "SLURM_NNODES", 1) > 1 else "127.0.0.1"
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", environment["SLURM_PROCID"]),
        "LOCAL_WORLD_SIZE": str(per_node[node] if node < len(per_node) else tasks),
        "MASTER_ADDR": environment.get("MASTER_ADDR", host),
        "MASTER_PORT": environment.get(
            "MASTER_PORT", str(_FIRST_PORT + int_of(environment, "SLURM_JOB_ID", 0) % _PORTS)
        ),
    }


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    return int_of(environment, "SLURM_STEP_NUM_TASKS", int_of(environment, "SLURM_NTASKS", 1))


def _tasks_per_node(text: str | None) -> list[int]:
    """The tasks of each machine: ``8(x2),4`` is [8, 8, 4]."""
    counts: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text or ""):
        counts += [int(tasks)] * int(times or 1)
    return counts


def first_host(hosts: str) -> str:
    """The first machine of SLURM's list: ``gpu[07-09,12],big1`` begins with gpu07."""
    if not (match := re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", hosts)):
        raise LaunchError(
            f"no machine in SLURM_JOB_NODELIST={hosts!r}", where="environment", remedy="set MASTER_ADDR to the first"
        )
    return "".join(part or "" for part in match.groups())


def int_of(environment: Mapping[str, str], key: str, default: int | None = None) -> int:
    """A variable as a number. LaunchError if it is not one."""
    text = environment.get(key)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise LaunchError(f"{key}={text!r} is not a number", where="environment", remedy="start with torchrun or srun")
    return int(text)
