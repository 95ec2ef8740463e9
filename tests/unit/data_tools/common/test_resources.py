"""Cores and memory under affinity, cgroups and SLURM."""

import os
from pathlib import Path

import pytest

from data_tools.common import resources


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 16 cores without cgroups or SLURM; returns the folder of the cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for name in list(os.environ):
        if name.startswith("SLURM"):
            monkeypatch.delenv(name)
    (tmp_path / "membership").write_text("0::/job/task\n")
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup" / "job" / "task").mkdir(parents=True)
    return tmp_path / "cgroup"


def test_usable_cores_from_affinity(cgroups: Path) -> None:
    assert resources.usable_cores() == 16
    assert [resources.default_workers(ranks) for ranks in (1, 3, 8, 40)] == [16, 5, 2, 1]


@pytest.mark.parametrize(("text", "cores"), [("650000 100000", 6), ("max 100000", 16), ("20000 100000", 1)])
def test_usable_cores_from_cgroup_v2_quota(cgroups: Path, text: str, cores: int) -> None:
    (cgroups / "job" / "cpu.max").write_text(text)
    assert resources.usable_cores() == cores


def test_usable_cores_from_cgroup_v1_quota(cgroups: Path) -> None:
    (cgroups.parent / "membership").write_text("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n")
    (cgroups / "cpu,cpuacct").mkdir()
    (cgroups / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("300000")
    (cgroups / "cpu,cpuacct" / "cpu.cfs_period_us").write_text("100000")
    assert resources.usable_cores() == 3


def test_usable_cores_from_slurm(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert resources.usable_cores() == 12
    assert resources.default_workers(4) == 3


def test_cores_bound_to_a_slurm_task_are_not_divided_again(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4")
    assert resources.default_workers(4) == 3


def test_page_cache_counts_as_available_memory(cgroups: Path) -> None:
    folder = cgroups / "job"
    (folder / "memory.max").write_text("1000000")
    (folder / "memory.current").write_text("900000")
    (folder / "memory.stat").write_text("anon 100000\ninactive_file 500000\nactive_file 200000\n")
    assert resources.available_memory() == 800000
    resources.check_memory(Path("x.beton"), 700000)
    with pytest.raises(MemoryError, match=r"x\.beton: .* give a smaller batch"):
        resources.check_memory(Path("x.beton"), 900000)
