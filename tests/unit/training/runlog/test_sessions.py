"""What a run notes of its hardware, with GPUs that are made up."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers.run_folders import SESSION

from data_tools.common.options import OptionError
from training.runlog.sessions import (
    ADDED,
    ENVIRONMENT,
    NAME_BYTES,
    Launch,
    add_session,
    gpu_names,
    hardware,
    launches_of,
    read_sessions,
)


def test_gpu_names_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H{device.index}00 80GB ™" + "x" * 200)
    others = []

    def every_rank(mine: torch.Tensor) -> torch.Tensor:
        others.append(mine)
        return torch.stack(others)

    gpu_names(torch.device("cuda", 1), every_rank)
    first, second = gpu_names(torch.device("cuda", 2), every_rank)
    assert first.startswith("NVIDIA H100 80GB ™xx")
    assert second.startswith("NVIDIA H200 80GB ™xx")
    assert len(second.encode()) == NAME_BYTES
    assert gpu_names(torch.device("cpu"), lambda mine: torch.stack([mine, mine])) == ()


def test_hardware_as_text() -> None:
    assert hardware(SESSION) == ("8 × NVIDIA TITAN RTX, driver 580.65; AMD EPYC 7742, 48 cores, 504 GiB")
    mixed = replace(SESSION, gpus=("A", "B", "A"), driver=None)
    assert hardware(mixed).startswith("2 × A and 1 × B; AMD")
    assert hardware(replace(SESSION, gpus=(), processes=2)).startswith("no GPU; 2 processes on AMD")


@pytest.mark.parametrize(
    "change",
    [
        *({"started": "yesterday"}, {"from_hours": -1}, {"cores": "x"}, {"more": 1}, {"images": 3}),
        *({"launches": 3}, {"launches": [{"started": "today"}]}),
    ],
)
def test_damaged_environment_json_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps([asdict(SESSION) | change]))
    with pytest.raises(OptionError, match=r"environment\.json: damaged"):
        read_sessions(tmp_path)


def test_environment_json_of_earlier_versions_is_read(tmp_path: Path) -> None:
    later = replace(SESSION, started="2026-03-02T08:00:00+00:00", from_epoch=3, from_hours=0.3)
    entries = [{key: value for key, value in asdict(each).items() if key not in ADDED} for each in (SESSION, later)]
    (tmp_path / ENVIRONMENT).write_text(json.dumps(entries))
    assert read_sessions(tmp_path) == [SESSION, later]
    assert [launch.started for launch in launches_of(read_sessions(tmp_path))] == [SESSION.started, later.started]


def test_launches_outlive_the_sessions_that_are_trained_again(tmp_path: Path) -> None:
    times = [f"2026-03-0{day}T08:00:00+00:00" for day in (1, 2, 3)]
    launches = tuple(
        Launch(started=time, from_epoch=epoch, command=f"run {epoch}", commit=None)
        for time, epoch in zip(times, (0, 3, 3), strict=True)
    )
    add_session(tmp_path, replace(SESSION, launches=launches[:1]))
    for number in (1, 2):
        session = replace(SESSION, started=times[number], from_epoch=3, from_hours=0.3, launches=launches[: number + 1])
        add_session(tmp_path, session)
    sessions = read_sessions(tmp_path)
    assert [session.started for session in sessions] == [times[0], times[2]]
    assert launches_of(sessions) == launches
