"""What a run logs: progress and JSON on the console, Weights & Biases, and the same files when it is continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.training_runs import attempt, training_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_tools import dawn_tsv
from training import report, trainer
from training.model import checkpoint
from training.reporting.run_folder import read_runs, run_summary
from training.runlog.epoch_table import COLUMNS, read_epochs
from training.runlog.run_log import RunLog
from training.runlog.sessions import read_sessions

# Records every call that the project makes of wandb.
FAKE_WANDB = """
import json, os
class Error(Exception): pass
def record(*call):
    with open(os.environ["FAKE_WANDB"], "a") as file:
        file.write(json.dumps(call) + "\\n")
class Run:
    def define_metric(self, *names, **more): record("define_metric", *names, more)
    def log(self, values): record("log", values)
    def finish(self): record("finish")
def init(**more):
    if os.environ.get("FAKE_WANDB_REFUSES"):
        raise Error("api_key not configured\\n(no-tty)")
    record("init", more)
    return Run()
"""


@pytest.fixture
def stop_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every run gets SIGTERM when it has logged an epoch, until ``undo`` is called."""
    epoch_done = RunLog.epoch_done

    def log_and_stop(log: RunLog, *arguments: Any) -> None:
        epoch_done(log, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "epoch_done", log_and_stop)
    return monkeypatch


def test_json_log_has_progress_and_epochs(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_EVERY_BATCHES", 4)
    status, out, err = attempt(recipe, tmp_path, "--log.format=json", "--log.seconds=0")
    said = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    # Of 5, 5 and 10 batches: after every fourth and the last.
    assert "".join(each["event"][0] for each in said) == "ppeppepppec"
    assert [each["batch"] for each in said if each["event"] == "progress"] == [4, 5, 4, 5, 4, 8, 10]
    assert all(set(each) == {"event", *COLUMNS} for each in said if each["event"] == "epoch")
    assert "img/s" not in err
    left = [each["run_seconds_left"] for each in said if each["event"] == "progress"]
    assert left[0] > left[-1] > 0
    assert left[-1] == pytest.approx(next(e for e in said[::-1] if e["event"] == "progress")["epoch_seconds_left"])
    status, out, _ = attempt(recipe, tmp_path, "--log.format=json")
    assert (status, json.loads(out)) == (0, {"event": "complete", "dir": str(tmp_path), "epochs": 3})


def test_start_is_announced_before_torch_is_loaded(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded now')")
    command = [sys.executable, *training_script(recipe, tmp_path / "run")]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.stderr.splitlines() == [
        f"training resnet18 for 3 epochs in {tmp_path / 'run'}; loading PyTorch",
        "torch is loaded now",
    ]
    assert done.stdout == ""


def test_output_to_a_file_has_no_control_characters(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, *training_script(recipe, tmp_path, "--log.seconds=0")]
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "1", "2", "3"]
    assert [line for line in err.splitlines() if line.startswith("epoch 2/3, 100 % of 5 batches, 32 px: loss ")]
    ready = [line for line in err.splitlines() if "px: ready for the first step after " in line]
    assert [line.split(":")[0] for line in ready] == ["epochs 1-2, 32 px", "epoch 3, 48 px"]
    assert all(character.isprintable() or character == "\n" for character in out + err)


def test_continued_run_continues_every_log(
    recipe: Path, tmp_path: Path, stop_after_an_epoch: pytest.MonkeyPatch
) -> None:
    assert attempt(recipe, tmp_path)[0] == 75
    stop_after_an_epoch.undo()
    status, out, err = attempt(recipe, tmp_path, "--log.seconds=60")
    assert status == 0, err
    assert err.splitlines()[0] == f"continued at the start of epoch 2 from {tmp_path / 'last.pt'}"
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "1", "2", "3"]
    rows = read_epochs(tmp_path)
    first, second = read_sessions(tmp_path)
    assert (first.from_epoch, first.from_hours, second.from_epoch) == (0, 0.0, 1)
    assert second.from_hours == pytest.approx(rows[0].hours)
    assert (first.gpus, first.processes, first.classes, first.images["val_160"]) == ((), 1, 4, 12)
    assert first.versions["torch"]
    assert (first.command.endswith(str(tmp_path)), second.command.endswith(" --log.seconds=60")) == (True, True)
    scores = dawn_tsv.read(tmp_path)[dawn_tsv.TOP1]
    # The scores of the first epoch stand at the step where the second start began, and are still there.
    assert list(scores) == [40, 80, 120]
    assert [value for _, value in scores.values()] == pytest.approx([row.top1 for row in rows], rel=1e-6)
    tensorboard = EventAccumulator(str(tmp_path))
    tensorboard.Reload()
    assert [event.step for event in tensorboard.Scalars("losses/test_1")] == [40, 80, 120]
    (noted,) = read_runs([tmp_path])
    said = dict(run_summary(noted, None))
    assert said["command"].startswith("train_imagenet.py --config-file ")
    assert said["started"].count("; the last of 2 times ") == 1
    assert "libjpeg" in said["versions"]
    assert said["data"] == "4 classes; train_160 40, val_160 12, train_full 40, val_full 12"
    assert report.main([str(tmp_path)]) == 0


def test_history_of_a_run_moves_with_its_checkpoint(
    recipe: Path, tmp_path: Path, stop_after_an_epoch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert attempt(recipe, here)[0] == 75
    stop_after_an_epoch.undo()
    there.mkdir()
    saved = checkpoint.load(here / "last.pt")
    saved["sessions"][0]["gpus"] = ["NVIDIA H200"]
    checkpoint.save(there / "last.pt", saved)
    written = (here / "epochs.csv").read_text()
    (here / "epochs.csv").write_text("damaged")
    for folder in (here, there):  # the same folder, and one that has nothing but the checkpoint
        status, out, err = attempt(recipe, folder)
        assert status == 0, err
        assert [line.split()[0] for line in out.splitlines()] == ["epoch", "1", "2", "3"]
    stayed, moved = (dawn_tsv.read(folder) for folder in (here, there))
    for tag in (dawn_tsv.FIRST, dawn_tsv.EVAL):  # times, of what was done before
        assert next(iter(moved[tag].items())) == next(iter(stayed[tag].items()))
    for tag in (dawn_tsv.TOP1, dawn_tsv.TOP5):
        assert [(step, v) for step, (_, v) in moved[tag].items()] == [(step, v) for step, (_, v) in stayed[tag].items()]
    (first,), (expected,) = (dawn_tsv.rows(each, False, there) for each in (moved, stayed))
    assert first == expected  # the only row: of four classes, every epoch is above 93 % top-5
    assert all((folder / "epochs.csv").read_text().startswith(written) for folder in (here, there))
    tensorboard = EventAccumulator(str(there))
    tensorboard.Reload()
    assert [event.step for event in tensorboard.Scalars("losses/test_1")] == [40, 80, 120]
    said = dict(run_summary(*read_runs([there]), 3.0))
    assert said["hardware"].startswith("1 × NVIDIA H200") and "in all, at 3 per GPU-hour" in said["cost"]
    assert len(checkpoint.load(there / "last.pt")["progress"]["history"]) == 3


@pytest.fixture
def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which a stand-in for wandb records its calls."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/wandb.py").write_text(FAKE_WANDB)
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "calls"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    return tmp_path / "calls"


def recorded_calls(log: Path, name: str) -> list[Any]:
    every = [json.loads(line) for line in log.read_text().splitlines()]
    return [rest for kind, *rest in every if kind == name]


def test_wandb_gets_the_scalars_of_tensorboard(
    recipe: Path, tmp_path: Path, fake_wandb: Path, stop_after_an_epoch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "watched"
    assert attempt(recipe, run_dir, "--log.wandb=project")[0] == 75
    ((first,),) = recorded_calls(fake_wandb, "init")
    assert (first["project"], first["name"], first["dir"]) == ("project", "watched", str(run_dir))
    assert first["config"]["schedule"]["phases"][0]["px"] == 32
    logged = [values for (values,) in recorded_calls(fake_wandb, "log")]
    assert any(values.get("losses/test_5") == 100 and values["images_seen"] == 40 for values in logged)
    assert any("losses/xent" in values and "sizes/lr" in values for values in logged)
    assert attempt(recipe, run_dir, "--log.wandb=project")[0] == 75
    (_,), (again,) = recorded_calls(fake_wandb, "init")
    assert again["id"] == first["id"]
    assert len(recorded_calls(fake_wandb, "finish")) == 2


def test_refusal_by_wandb_is_an_error_before_training(
    recipe: Path, tmp_path: Path, fake_wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB_REFUSES", "1")
    status, out, err = attempt(recipe, tmp_path / "run", "--log.wandb=project")
    assert (status, out, err.count("error: "), "Traceback" in err) == (2, "", 1, False)
    assert "log.wandb: api_key not configured (no-tty)" in err and "WANDB_MODE=offline keeps it in" in err


def test_missing_wandb_is_refused_before_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.runlog.wandb_logger.importlib.util.find_spec", lambda name: None)
    status, out, err = attempt(recipe, tmp_path / "run", "--log.wandb=project")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "pip install 'wandb>=0.19'" in err
    assert not (tmp_path / "run").exists()
