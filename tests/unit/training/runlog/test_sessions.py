"""What a run notes of where it takes place, with cards and a driver that are not here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers.run_folders import SESSION

from data_tools.common.options import OptionError
from training.runlog.sessions import (
    ENVIRONMENT,
    NAME_BYTES,
    add_session,
    current_session,
    gpu_names,
    hardware,
    read_sessions,
)


def test_every_process_names_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    ("script", "driver"),
    [("echo 580.95.05; echo 580.95.05", "580.95.05"), ("exit 9", None), ("true", None), (None, None)],
)
def test_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, driver: str | None) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = {"processes": 1, "precision": "float16", "epoch": 2, "hours": 0.5, "classes": 3, "images": {"val_160": 9}}
    here = current_session(gpus=("NVIDIA T4",), **facts)
    assert (here.driver, here.from_epoch, here.from_hours, here.gpus) == (driver, 2, 0.5, ("NVIDIA T4",))
    assert here.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert here.cores >= 1
    assert current_session(gpus=(), **facts).driver is None
    add_session(tmp_path, here)
    assert read_sessions(tmp_path) == [here]


def test_hardware_in_words() -> None:
    assert hardware(SESSION) == ("8 × NVIDIA TITAN RTX, driver 580.65; AMD EPYC 7742, 48 cores, 504 GiB")
    mixed = replace(SESSION, gpus=("A", "B", "A"), driver=None)
    assert hardware(mixed).startswith("2 × A and 1 × B; AMD")
    assert hardware(replace(SESSION, gpus=(), processes=2)).startswith("no GPU; 2 processes on AMD")


@pytest.mark.parametrize(
    "change", [{"started": "yesterday"}, {"from_hours": -1}, {"cores": "x"}, {"more": 1}, {"images": 3}]
)
def test_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps([asdict(SESSION) | change]))
    with pytest.raises(OptionError, match=r"environment\.json: damaged"):
        read_sessions(tmp_path)
