"""What a run notes of where it takes place, with an nvidia-smi that is made up."""

from pathlib import Path

import pytest
import torch

from training.runlog.sessions import session_here


def test_session_notes_where_it_takes_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA T4, 580.95.05, 7.5\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = {
        "processes": 1,
        "precision": "float16",
        "from_epoch": 2,
        "from_hours": 0.5,
        "classes": 3,
        "images": {"val_160": 9},
    }
    here = session_here(gpus=("NVIDIA T4",), **facts)
    assert (here.driver, here.from_epoch, here.from_hours, here.gpus) == ("580.95.05", 2, 0.5, ("NVIDIA T4",))
    assert here.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert here.cores >= 1
    assert here.decoder.startswith("libjpeg")
    assert session_here(gpus=(), **facts).driver is None
