"""How many cores this process may use: what the machine has is not what a container or a cluster job gets."""

import os
from collections.abc import Mapping
from pathlib import Path


def usable_cores() -> int:
    """The least of CPU affinity, the cgroups' CPU quota and, in a SLURM job, its CPUs on this machine."""
    limits = [float(len(os.sched_getaffinity(0))), *_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    limits += _slurm(os.environ)
    return max(1, int(min(limits)))


def default_workers(local_ranks: int) -> int:
    """Loader threads for one of `local_ranks` processes on this machine.

    Under srun with one task a process, affinity is already the process's own share and not divided again.
    """
    cores = usable_cores()
    own_task = local_ranks > 1 and _tasks_here(os.environ) == local_ranks
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if own_task and per_task.isdigit() and len(os.sched_getaffinity(0)) <= int(per_task):
        return cores
    return max(1, cores // max(1, local_ranks))


def _slurm(environment: Mapping[str, str]) -> list[float]:
    """CPUs of the job on this machine: those of a task times the tasks here."""
    per_task = environment.get("SLURM_CPUS_PER_TASK", "")
    return [float(int(per_task) * _tasks_here(environment))] if per_task.isdigit() and int(per_task) else []


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks of the SLURM step on this machine; the variable reads like "4" or "2(x3),1"."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_NTASKS_PER_NODE", ""))
    first = text.split(",")[0].split("(")[0]
    return max(1, int(first)) if first.isdigit() else 1


def _quotas(membership: Path, root: Path) -> list[float]:
    """CPU quotas of the cgroups (v2 and v1) above this process, in cores."""
    found = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        # Inside a container the path named may not be mounted, and its limits stand at the mount's root.
        for folder in (base / name.lstrip("/"), *(base / name.lstrip("/")).parents):
            found += _quota(folder)
            if folder == root:
                break
    return found


def _quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # no such group, or "max"
        return []
