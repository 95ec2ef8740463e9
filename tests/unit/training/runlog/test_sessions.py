"""What a run notes of its hardware, with GPUs that are made up."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers.run_folders import SESSION

from data_tools.common.options import OptionError
from training.runlog.sessions import ENVIRONMENT, NAME_BYTES, gpu_names, hardware, read_sessions


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
    "change", [{"started": "yesterday"}, {"from_hours": -1}, {"cores": "x"}, {"more": 1}, {"images": 3}]
)
def test_damaged_environment_json_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps([asdict(SESSION) | change]))
    with pytest.raises(OptionError, match=r"environment\.json: damaged"):
        read_sessions(tmp_path)
