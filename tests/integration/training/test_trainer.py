"""train_imagenet.py end to end on tiny betons, on the CPU, with one process and with two."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import train_imagenet
from data_tools.beton.format import SAMPLES_START
from training import trainer
from training.config.schedule import Phase
from training.engine import phase_loaders
from training.engine.state import TrainState
from training.loader.loaders import TrainLoader
from training.model import checkpoint
from training.runlog.epoch_table import read_epochs

ROOT = Path(__file__).parents[2]

RECIPE = """
model: {{arch: resnet18}}
train: {{amp: fp32}}
dist: {{device: cpu}}
run: {{deterministic: true}}
data: {{dir: {betons}, workers: 1}}
schedule:
  phases:
    - {{epochs: [0, 2], px: 32, batch_per_gpu: 8, data: 160, val_batch: 5,
       lr: [{{epochs: [0, 2], from: 0.01, to: 0.02}}]}}
    - {{epochs: [2, 3], px: 48, batch_per_gpu: 4, data: full, val_batch: 4, min_scale: 0.5, rectangular_val: true,
       lr: [{{epochs: [2, 3], from: 0.002, to: 0.001}}]}}
"""


@pytest.fixture(scope="session")
def recipe(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(betons=betons))
    return path


def command(recipe: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "train_imagenet.py"),
        "--config-file",
        str(recipe),
        f"--run.dir={run_dir}",
        *more,
    ]


def attempt(recipe: Path, run_dir: Path, *more: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a run in this process: torch is loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = train_imagenet.main(command(recipe, run_dir, *more)[2:])
    return status, out.getvalue(), err.getvalue()


def train(recipe: Path, run_dir: Path, *more: str) -> str:
    status, out, err = attempt(recipe, run_dir, *more)
    assert status == 0, err
    return out


def train_apart(recipe: Path, run_dir: Path, *more: str) -> str:
    """The same in processes of its own, as a user starts it."""
    done = subprocess.run(command(recipe, run_dir, *more), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    return run_dir, train(recipe, run_dir)


def test_what_a_run_leaves(finished: tuple[Path, str]) -> None:
    run_dir, printed = finished
    rows = read_epochs(run_dir)
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [row.px for row in rows] == [32, 32, 48]
    assert [row.lr for row in rows] == [0.015, 0.02, 0.001]
    assert all(a.hours < b.hours for a, b in itertools.pairwise(rows))
    assert all(0 <= row.top1 <= row.top5 <= 100 for row in rows)
    assert [line.split()[0] for line in printed.splitlines()] == ["epoch", "1", "2", "3"]
    config = json.loads((run_dir / "config.json").read_text())
    assert config["train"]["momentum"] == 0.9
    assert {"last.pt", "best.pt", "epochs.csv"} <= {p.name for p in run_dir.iterdir()}


def test_loaders_of_the_next_phase_are_made_while_the_last_epoch_trains(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    open_phase, train_epoch = phase_loaders.open_phase, trainer.train_epoch

    def opening(state: TrainState, phase: Phase) -> phase_loaders.PhaseLoaders:
        made.append((f"open {phase.start}", threading.current_thread().name.partition("_")[0]))
        return open_phase(state, phase)

    def training(state: TrainState, loader: TrainLoader, epoch: int, *more: Any) -> Any:
        time.sleep(0.2)  # what was begun just before has its turn
        made.append((f"train {epoch}", ""))
        return train_epoch(state, loader, epoch, *more)

    monkeypatch.setattr(phase_loaders, "open_phase", opening)
    monkeypatch.setattr(trainer, "train_epoch", training)
    train(recipe, tmp_path / "run")
    assert made == [
        ("open 0", "MainThread"),
        ("train 0", ""),
        ("open 2", "next-phase"),
        ("train 1", ""),
        ("train 2", ""),
    ]


def test_a_beton_of_the_next_phase_that_is_unsound_ends_the_run(recipe: Path, tmp_path: Path, betons: Path) -> None:
    """It was sound when the run began: an error of the background comes out where its phase begins."""
    copies = tmp_path / "betons"
    shutil.copytree(betons, copies)
    with (
        mock.patch.object(trainer, "train_epoch", side_effect=_cutting(copies / "train_full.beton")),
        pytest.raises(ValueError, match=r"train_full\.beton: .*run write_datasets\.py again"),
    ):
        train(recipe, tmp_path / "run", f"--data.dir={copies}")
    assert [row.epoch for row in read_epochs(tmp_path / "run")] == [1, 2]


def test_an_unsound_beton_of_any_phase_is_refused_before_the_first(recipe: Path, tmp_path: Path, betons: Path) -> None:
    copies = tmp_path / "betons"
    shutil.copytree(betons, copies)
    with (copies / "val_full.beton").open("r+b") as file:
        file.seek(SAMPLES_START + 5)
        file.write(b"\1\2\3")
    status, out, err = attempt(recipe, tmp_path / "run", f"--data.dir={copies}")
    assert (status, out) == (2, "")
    assert err.startswith("train_imagenet.py: error: data.dir: ")
    assert "val_full.beton: " in err and "run write_datasets.py again" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_checksums_that_a_late_phase_will_need_are_missed_before_the_first(
    recipe: Path, tmp_path: Path, betons: Path
) -> None:
    copies = tmp_path / "betons"
    shutil.copytree(betons, copies)
    (copies / "val_full.beton.xxh64").unlink()
    status, _, err = attempt(recipe, tmp_path / "run", f"--data.dir={copies}")
    assert status == 2
    assert "val_full.beton.xxh64: no checksums beside the beton" in err


def _cutting(path: Path) -> Callable[..., Any]:
    train_epoch = trainer.train_epoch

    def training(state: TrainState, loader: TrainLoader, epoch: int, *more: Any) -> Any:
        if epoch == 0:
            os.truncate(path, 5000)
        return train_epoch(state, loader, epoch, *more)

    return training


def test_the_page_window_reaches_the_loader_and_is_part_of_what_a_run_is(
    recipe: Path, tmp_path: Path, finished: tuple[Path, str]
) -> None:
    given: list[int] = []

    def loader(*args: Any, page_window: int, **options: Any) -> TrainLoader:
        given.append(page_window)
        return TrainLoader(*args, page_window=page_window, **options)

    with mock.patch.object(phase_loaders, "TrainLoader", loader):
        train(recipe, tmp_path / "run", "--data.page_window=3")
    assert given == [3, 3]
    shutil.copytree(finished[0], tmp_path / "other")
    status, _, err = attempt(recipe, tmp_path / "other", "--data.page_window=3")
    assert status == 2
    assert "data.page_window: there 0, here 3" in err


def test_events_carry_the_published_tags(finished: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0]))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        *("first", "losses/test_1", "losses/test_5", "losses/xent", "losses/train_1", "losses/train_5"),
        *("times/eval_sec", "times/step", "times/data", "sizes/lr", "sizes/batch", "sizes/image"),
    }
    tests = events.Scalars("losses/test_5")
    state = checkpoint.load(finished[0] / "last.pt")
    assert len(tests) == 3
    assert tests[-1].step == state["progress"]["images_seen"]
    assert tests[-1].value == pytest.approx(read_epochs(finished[0])[-1].top5, abs=1e-3)


def test_eval_only_gives_the_last_epochs_scores(finished: tuple[Path, str], recipe: Path) -> None:
    run_dir, _ = finished
    printed = train(recipe, run_dir, "--run.eval_only=true", f"--run.checkpoint={run_dir / 'last.pt'}")
    last = read_epochs(run_dir)[-1]
    assert f"top-1 {last.top1:.4f} %, top-5 {last.top5:.4f} %" in printed
    assert "48 px rectangles of val_full" in printed


def test_a_complete_run_is_not_trained_again(finished: tuple[Path, str], recipe: Path) -> None:
    run_dir, _ = finished
    before = (run_dir / "last.pt").stat().st_mtime_ns
    assert "complete after 3 epochs" in train(recipe, run_dir)
    assert (run_dir / "last.pt").stat().st_mtime_ns == before


def test_another_recipe_does_not_continue_the_run(finished: tuple[Path, str], recipe: Path) -> None:
    status, _, err = attempt(recipe, finished[0], "--train.weight_decay=0.01")
    assert status == 2
    assert "train.weight_decay: there 0.0001, here 0.01" in err


def test_killed_after_an_epoch_and_continued_gives_the_same_weights(
    finished: tuple[Path, str], recipe: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    process = subprocess.Popen(command(recipe, run_dir), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run_dir / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.load(run_dir / "last.pt")["progress"]["epoch"] < 3
    train(recipe, run_dir)
    whole, continued = (checkpoint.load(d / "last.pt") for d in (finished[0], run_dir))
    assert whole["progress"]["images_seen"] == continued["progress"]["images_seen"]
    for key, weight in whole["model"].items():
        assert torch.equal(weight, continued["model"][key]), key
    strip = [
        [(r.epoch, r.top1, r.top5, r.train_loss, r.lr, r.px) for r in read_epochs(d)] for d in (finished[0], run_dir)
    ]
    assert strip[0] == strip[1]


def test_asked_to_stop_while_it_validates(
    finished: tuple[Path, str], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, begun = trainer.evaluate, []

    def asked(*args: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", asked)
        status, _, err = attempt(recipe, tmp_path)
    assert status == 75
    assert "stopped at batch 5 of epoch 2; the same command continues" in err
    progress = checkpoint.load(tmp_path / "last.pt")["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 5)
    train(recipe, tmp_path)
    whole, continued = (checkpoint.load(d / "last.pt") for d in (finished[0], tmp_path))
    assert all(torch.equal(weight, continued["model"][key]) for key, weight in whole["model"].items())
    strip = [
        [(r.epoch, r.top1, r.top5, r.train_loss, r.lr, r.px) for r in read_epochs(d)] for d in (finished[0], tmp_path)
    ]
    assert strip[0] == strip[1]


def test_two_processes_train_and_count_every_validation_image_once(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    printed = train_apart(recipe, run_dir, "--dist.processes=2")
    assert [line.split()[0] for line in printed.splitlines()] == ["epoch", "1", "2", "3"]
    last = read_epochs(run_dir)[-1]
    alone = train(recipe, tmp_path, "--run.eval_only=true", f"--run.checkpoint={run_dir / 'last.pt'}")
    assert f"top-1 {last.top1:.4f} %, top-5 {last.top5:.4f} % (12 images" in alone


def test_profile_and_options_that_change_the_step(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "more"
    options = ("--train.mixup=0.2", "--train.ema=0.9", "--model.blurpool=1", "--train.flip_tta=1", "--train.amp=bf16")
    train(recipe, run_dir, "--run.profile=true", "--dist.emulate_gpus=2", *options)
    assert {p.name for p in run_dir.glob("trace*")} == {"trace_32px_epoch1.json.gz", "trace_48px_epoch3.json.gz"}
    with gzip.open(run_dir / "trace_32px_epoch1.json.gz") as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    assert any("conv" in name for name in names)
    assert all(0 <= row.ema_top1 <= row.ema_top5 <= 100 for row in read_epochs(run_dir))
    assert checkpoint.load(run_dir / "last.pt")["ema"]["n_averaged"] > 0


def test_more_processes_than_gpus(recipe: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    status, _, err = attempt(recipe, tmp_path, "--dist.device=cuda")
    assert status == 2
    assert "torch sees no GPU here" in err


def test_batch_larger_than_the_dataset(recipe: Path, tmp_path: Path) -> None:
    status, _, err = attempt(recipe, tmp_path, "--dist.processes=1000")
    assert status == 2
    assert "on 1000 processes is 8000, but train_160 holds" in err


def test_two_nodes_on_loopback(recipe: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    nodes = [
        subprocess.Popen(
            [sys.executable, *node, f"--master-port={port}", f"--node-rank={rank}", *command(recipe, tmp_path)[1:]],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=300)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0]
    assert [line.split()[0] for line in printed[0].splitlines()] == ["epoch", "1", "2", "3"]
    assert printed[1] == ""


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_end_a_run_before_its_end(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, written, save_last = tmp_path / "full", [], checkpoint.save_last

    def save_but_at_the_second(run_dir: Path, state: dict[str, object]) -> None:
        written.append(state)
        (full_disk if len(written) == 2 else save_last)(run_dir, state)

    monkeypatch.setattr(checkpoint, "save_last", save_but_at_the_second)
    status, _, err = attempt(recipe, run_dir)
    assert (status, len(written)) == (0, 3)
    assert err.count("warning: last.pt not written") == 1
    monkeypatch.setattr(checkpoint, "save_last", full_disk)
    with pytest.raises(OSError, match="No space left"):
        attempt(recipe, tmp_path / "full_at_the_end")
