"""Cores and memory that this process may use: in a container or a cluster job, less than the machine has."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from data_tools.common.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class OutOfMemoryError(UserError, MemoryError):
    """Something does not fit into the available memory."""


def usable_cores() -> int:
    """The minimum of CPU affinity, cgroup CPU quotas and, in a SLURM job, its CPUs on this machine."""
    limits = [float(len(os.sched_getaffinity(0))), *_slurm(os.environ)]
    for folder in _cgroups(MEMBERSHIP, CGROUPS):
        limits += _cpu_quota(folder)
    return max(1, int(min(limits)))


def default_workers(local_ranks: int) -> int:
    """Loader threads for one of `local_ranks` processes on this machine.

    If srun starts one task per process, affinity is already that process's share and is not divided again.
    """
    cores, per_task = usable_cores(), os.environ.get("SLURM_CPUS_PER_TASK", "")
    own_task = local_ranks > 1 and _tasks_here(os.environ) == local_ranks
    if own_task and per_task.isdigit() and len(os.sched_getaffinity(0)) <= int(per_task):
        return cores
    return max(1, cores // max(1, local_ranks))


def check_memory(path: Path, needed: int) -> None:
    """OutOfMemoryError if the batches of a loader, ``needed`` bytes, do not fit into the available memory."""
    available = available_memory()
    if needed > available:
        what = f"the batches in flight take {needed / 2**30:.1f} GiB, but {available / 2**30:.1f} GiB are available"
        raise OutOfMemoryError(what, where=path, remedy="give a smaller batch")


def available_memory() -> int:
    """Bytes available on the machine, or what the cgroups above this process leave of them."""
    limits: list[int] = [psutil.virtual_memory().available]
    for folder in _cgroups(MEMBERSHIP, CGROUPS):
        limits += _memory_left(folder)
    return min(limits)


def _slurm(environment: Mapping[str, str]) -> list[float]:
    """CPUs of the job on this machine: CPUs per task times tasks."""
    per_task = environment.get("SLURM_CPUS_PER_TASK", "")
    return [float(int(per_task) * _tasks_here(environment))] if per_task.isdigit() and int(per_task) else []


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks of the SLURM step on this machine; the variable reads like "4" or "2(x3),1"."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_NTASKS_PER_NODE", ""))
    first = text.split(",")[0].split("(")[0]
    return max(1, int(first)) if first.isdigit() else 1


def _cgroups(membership: Path, root: Path) -> Iterator[Path]:
    """The folders of the cgroups (v2 and v1) above this process."""
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, name = line.split(":", 2)
        base = root / controllers if controllers else root
        # Inside a container that path may not be mounted; the limits are then at the root of the mount.
        for folder in (base / name.lstrip("/"), *(base / name.lstrip("/")).parents):
            yield folder
            if folder == root:
                break


def _cpu_quota(folder: Path) -> list[float]:
    files = ("cpu.max",) if (folder / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = " ".join((folder / file).read_text() for file in files).split()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # no such group, or "max"
        return []


def _memory_left(folder: Path) -> list[int]:
    """The limit less the memory in use; page cache counts as free, since the kernel reclaims it."""
    v2 = (folder / "memory.max").exists()
    limit, used = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
        return [int((folder / limit).read_text()) - int((folder / used).read_text()) + cache]
    except (OSError, ValueError):
        return []
