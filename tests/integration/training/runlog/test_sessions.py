"""What a run notes of where it takes place, with an nvidia-smi that is made up."""

from pathlib import Path

import pytest
import torch

from training.runlog.sessions import add_session, current_session, read_sessions


@pytest.mark.parametrize(
    ("script", "driver"),
    [("echo 580.95.05; echo 580.95.05", "580.95.05"), ("exit 9", None), ("true", None), (None, None)],
)
def test_session_has_the_driver_version_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, driver: str | None
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = {"processes": 1, "precision": "float16", "epoch": 2, "hours": 0.5, "classes": 3, "images": {"val_160": 9}}
    facts |= {"run_dir": tmp_path}
    here = current_session(gpus=("NVIDIA T4",), **facts)
    assert (here.driver, here.from_epoch, here.from_hours, here.gpus) == (driver, 2, 0.5, ("NVIDIA T4",))
    assert here.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert here.cores >= 1
    assert here.decoder.startswith("libjpeg")
    assert current_session(gpus=(), **facts).driver is None
    add_session(tmp_path, here)
    assert read_sessions(tmp_path) == [here]
    again = current_session(gpus=(), **facts)
    assert again.launches[:-1] == here.launches
    assert again.launches[-1].from_epoch == 2
