"""What a run notes of its hardware, with GPUs that are made up."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.run_folders import SESSION

from data_tools.common.options import OptionError
from training.runlog.sessions import ENVIRONMENT, as_plain, from_plain, hardware, read_sessions, write_sessions


def test_hardware_as_text() -> None:
    assert hardware(SESSION) == ("8 × NVIDIA TITAN RTX, driver 580.65; AMD EPYC 7742, 48 cores, 504 GiB")
    mixed = replace(SESSION, gpus=("A", "B", "A"), driver=None)
    assert hardware(mixed).startswith("2 × A and 1 × B; AMD")
    assert hardware(replace(SESSION, gpus=(), processes=2)).startswith("no GPU; 2 processes on AMD")


def test_sessions_are_read_as_they_were_written(tmp_path: Path) -> None:
    sessions = SESSION, replace(SESSION, started=datetime(2026, 3, 2, tzinfo=UTC), from_epoch=3, commit="ab+changes")
    write_sessions(tmp_path, sessions)
    assert read_sessions(tmp_path) == sessions
    assert from_plain(json.loads(json.dumps(as_plain(sessions)))) == sessions


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"started": "yesterday"}, "0.started"),
        ({"from_hours": -1}, "0.from_hours"),
        ({"cores": "x"}, "0.cores"),
        ({"more": 1}, "0.more"),
        ({"images": 3}, "0.images"),
    ],
)
def test_damaged_environment_json_is_refused(tmp_path: Path, change: dict[str, object], key: str) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps([as_plain([SESSION])[0] | change]))
    with pytest.raises(OptionError, match=rf"environment\.json: damaged, or of another version \({key}: "):
        read_sessions(tmp_path)
