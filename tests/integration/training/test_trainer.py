"""train_imagenet.py end to end on tiny betons, on the CPU, with one process and with two."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ffcv.loader import Loader
from helpers.betons import overwrite
from helpers.processes import free_port, largest_file
from helpers.recipes import ONE_EPOCH, TINY_PHASES, write_recipe
from helpers.training_runs import (
    TrainingProcess,
    assert_same_result,
    attempt,
    evaluated,
    run_main,
    stop_at_evaluation,
    train,
    training_script,
)

from data_tools.beton.format import SAMPLES_START
from training import compare, trainer
from training.config.schedule import Phase
from training.engine import phase_loaders
from training.loader.loaders import TrainLoader
from training.model import checkpoint
from training.runlog.epoch_table import read_epochs
from training.runlog.step_table import read_steps
from training.trainer import Trainer

ANOTHER_EPOCH = TINY_PHASES[1] | {"epochs": [3, 4], "lr": [{"epochs": [3, 4], "from": 0.001, "to": 0.0}]}


def test_finished_run_has_epochs_config_and_checkpoints(finished_run: Path) -> None:
    rows, printed = read_epochs(finished_run), (finished_run / "stdout.txt").read_text()
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [row.px for row in rows] == [32, 32, 48]
    assert [row.lr for row in rows] == [0.015, 0.02, 0.001]
    assert all(a.hours < b.hours for a, b in itertools.pairwise(rows))
    assert all(0 <= row.top1 <= row.top5 <= 100 for row in rows)
    assert [line.split()[0] for line in printed.splitlines()] == ["epoch", "1", "2", "3"]
    config = json.loads((finished_run / "config.json").read_text())
    assert config["train"]["momentum"] == 0.9
    assert {"last.pt", "best.pt", "epochs.csv"} <= {p.name for p in finished_run.iterdir()}


def test_trainer_iterates_ffcvs_loader(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_epoch, evaluate, iterated = Trainer.train_epoch, trainer.evaluate, []

    def training(self: Trainer, loader: TrainLoader, *more: Any) -> Any:
        iterated.append(loader)
        return train_epoch(self, loader, *more)

    def evaluating(predict: Any, loader: Any, *more: Any) -> Any:
        iterated.append(loader)
        return evaluate(predict, loader, *more)

    monkeypatch.setattr(Trainer, "train_epoch", training)
    monkeypatch.setattr(trainer, "evaluate", evaluating)
    train(recipe, tmp_path / "run")
    assert len(iterated) >= 6
    assert all(isinstance(loader, Loader) for loader in iterated)


def test_next_phase_opens_in_the_background_while_the_last_epoch_trains(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    next_phase_open = threading.Event()
    open_phase, train_epoch = phase_loaders.open_phase, Trainer.train_epoch

    def opening(state: Any, phase: Phase) -> phase_loaders.PhaseLoaders:
        made.append((f"open {phase.start}", threading.current_thread().name.partition("_")[0]))
        if phase.start == 2:
            next_phase_open.set()
        return open_phase(state, phase)

    def training(self: Trainer, *more: Any) -> Any:
        epoch = self.progress.epoch
        assert epoch != 1 or next_phase_open.wait(60)
        made.append((f"train {epoch}", ""))
        return train_epoch(self, *more)

    monkeypatch.setattr(phase_loaders, "open_phase", opening)
    monkeypatch.setattr(Trainer, "train_epoch", training)
    train(recipe, tmp_path / "run")
    assert made == [
        ("open 0", "MainThread"),
        ("train 0", ""),
        ("open 2", "next-phase"),
        ("train 1", ""),
        ("train 2", ""),
    ]


def test_beton_cut_during_the_run_ends_it_where_its_phase_begins(recipe: Path, tmp_path: Path, betons: Path) -> None:
    copies = tmp_path / "betons"
    shutil.copytree(betons, copies)
    with mock.patch.object(Trainer, "train_epoch", truncates_in_first_epoch(copies / "train_full.beton")):
        status, _, err = attempt(recipe, tmp_path / "run", f"--data.dir={copies}")
    assert status == 2
    assert "train_full.beton: " in err and "run write_datasets.py again" in err
    assert [row.epoch for row in read_epochs(tmp_path / "run")] == [1, 2]


def overwrite_table(copies: Path) -> None:
    overwrite(copies / "val_full.beton", SAMPLES_START + 5, b"\1\2\3")


def remove_checksums(copies: Path) -> None:
    (copies / "val_full.beton.xxh64").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite_table, "run write_datasets.py again"),
        (remove_checksums, "val_full.beton.xxh64: no checksums beside the beton"),
    ],
)
def test_damaged_beton_of_any_phase_is_refused_before_the_first(
    recipe: Path, tmp_path: Path, betons: Path, damage: Callable[[Path], None], message: str
) -> None:
    copies = tmp_path / "betons"
    shutil.copytree(betons, copies)
    damage(copies)
    status, out, err = attempt(recipe, tmp_path / "run", f"--data.dir={copies}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("train_imagenet.py: error: data.dir: ")
    assert "val_full.beton" in err and message in err
    assert not (tmp_path / "run").exists()


def truncates_in_first_epoch(path: Path) -> Callable[..., Any]:
    train_epoch = Trainer.train_epoch

    def training(self: Trainer, *more: Any) -> Any:
        if self.progress.epoch == 0:
            os.truncate(path, 5000)
        return train_epoch(self, *more)

    return training


def test_page_window_reaches_the_loader_and_cannot_change_in_a_run(
    recipe: Path, tmp_path: Path, finished_run: Path
) -> None:
    given: list[int] = []

    def loader(*args: Any, page_window: int, **options: Any) -> TrainLoader:
        given.append(page_window)
        return TrainLoader(*args, page_window=page_window, **options)

    with mock.patch.object(phase_loaders, "TrainLoader", loader):
        train(recipe, tmp_path / "run", "--data.page_window=3")
    assert set(given) == {3}
    shutil.copytree(finished_run, tmp_path / "other")
    status, _, err = attempt(recipe, tmp_path / "other", "--data.page_window=3")
    assert status == 2
    assert "data.page_window is 3, was None" in err


def test_tensorboard_events_have_the_published_tags(finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        *("losses/test_1", "losses/test_5", "losses/xent", "losses/train_1", "losses/train_5"),
        *(
            "losses/test_xent",
            "times/first",
            "times/eval_sec",
            "times/prepare_sec",
            "times/step",
            "times/data",
            "sizes/lr",
            "sizes/batch",
            "sizes/image",
        ),
    }
    # TensorBoard sorts the tags by name: the accuracies come first.
    assert sorted(events.Tags()["scalars"])[:2] == ["losses/test_1", "losses/test_5"]
    losses = [event.value for event in events.Scalars("losses/test_xent")]
    assert losses == pytest.approx([row.val_loss for row in read_epochs(finished_run)], rel=1e-5)
    tests = events.Scalars("losses/test_5")
    state = checkpoint.load(finished_run / "last.pt")
    assert len(tests) == 3
    assert tests[-1].step == state["progress"]["images_seen"]
    assert tests[-1].value == pytest.approx(read_epochs(finished_run)[-1].top5, abs=1e-3)


def test_finished_run_is_not_trained_again(finished_run: Path, recipe: Path) -> None:
    before = (finished_run / "last.pt").stat().st_mtime_ns
    assert "complete after 3 epochs" in train(recipe, finished_run)
    assert (finished_run / "last.pt").stat().st_mtime_ns == before


def test_deterministic_run_reads_no_memory_before_it_is_written(
    recipe: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch, settings, filled = Trainer.train_epoch, torch.utils.deterministic, []

    def training(*args: Any) -> Any:
        filled.append(settings.fill_uninitialized_memory)
        monkeypatch.setattr(settings, "fill_uninitialized_memory", True)  # from now on it is NaN
        return train_epoch(*args)

    monkeypatch.setattr(Trainer, "train_epoch", training)
    train(recipe, tmp_path)
    assert filled[0] is False
    assert_same_result(tmp_path, finished_run)


def test_schedule_that_ends_before_the_checkpoint_leaves_the_run_as_it_is(
    finished_run: Path, betons: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    one_epoch = write_recipe(tmp_path / "one.yaml", ONE_EPOCH, data={"dir": str(betons)})
    assert "complete after 3 epochs" in train(one_epoch, run_dir, "--run.accept_changes")
    assert (run_dir / "epochs.csv").read_bytes() == (finished_run / "epochs.csv").read_bytes()


def test_other_options_are_refused_a_line_each_until_they_are_accepted_and_recorded(
    finished_run: Path, recipe: Path, betons: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    options = "--train.weight_decay=0.01", "--run.seed=1"
    status, _, err = attempt(recipe, run_dir, *options)
    assert status == 2
    first, second, remedy = err.splitlines()
    assert first.endswith("last.pt: train.weight_decay is 0.01, was 0.0001")
    assert second.endswith("last.pt: run.seed is 1, was 0")
    assert remedy.endswith("--run.accept_changes")
    longer = write_recipe(tmp_path / "longer.yaml", [*TINY_PHASES, ANOTHER_EPOCH], data={"dir": str(betons)})
    status, _, err = attempt(longer, run_dir, *options, "--run.accept_changes")
    assert status == 0, err
    assert "continues with a change: run.seed is 1, was 0" in err
    changes = checkpoint.load(run_dir / "last.pt")["changes"]
    assert [(each["epoch"], each["key"]) for each in changes if not each["harmless"]] == [
        (3, "train.weight_decay"),
        (3, "run.seed"),
    ]


def test_run_killed_at_its_very_start_is_begun_again(
    recipe: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "RunLog", mock.Mock(side_effect=KeyboardInterrupt))
        assert attempt(recipe, tmp_path)[0] == 128 + signal.SIGINT
    assert "continued at the start of epoch 1 from" in attempt(recipe, tmp_path)[2]
    assert_same_result(tmp_path, finished_run)


def test_sigterm_during_validation_saves_and_exits_75(
    finished_run: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at_evaluation(patch, 3)  # in the second epoch: averaged weights are validated, too
        status, _, err = attempt(recipe, tmp_path)
    assert status == 75
    assert "stopped at batch 5 of epoch 2; the same command continues" in err
    progress = checkpoint.load(tmp_path / "last.pt")["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 5)
    train(recipe, tmp_path)
    assert_same_result(tmp_path, finished_run)


def test_two_processes_train_and_count_every_validation_image_once(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    printed, _ = TrainingProcess(recipe, run_dir, "--dist.processes=2").finish()
    assert [line.split()[0] for line in printed.splitlines()] == ["epoch", "1", "2", "3"]
    *_, last = rows = read_epochs(run_dir)
    for row in rows:  # of batches of one size, the mean loss of the images is that of the steps
        losses = [step.loss for step in read_steps(run_dir) if step.epoch == row.epoch]
        assert sum(losses) / len(losses) == pytest.approx(row.train_loss, rel=1e-6)
    alone = evaluated(recipe, run_dir / "last.pt")
    assert f"top-1 {last.top1:.4f} %, top-5 {last.top5:.4f} % (12 images" in alone


@pytest.mark.parametrize(
    ("gpus", "ranks", "remedy"),
    [(8, 2, "--dist.emulate_gpus=8 keeps"), (8, 3, "8 processes would keep"), (1, 2, "1 process would keep")],
)
def test_note_about_another_batch_says_what_keeps_the_recipes(
    gpus: int, ranks: int, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    run: Any = SimpleNamespace(
        config=SimpleNamespace(schedule=SimpleNamespace(gpus=gpus)),
        state=SimpleNamespace(gpus=ranks),
        world=SimpleNamespace(ranks=ranks),
    )
    with caplog.at_level(logging.INFO, "training"):
        Trainer.note_another_batch(run)
    assert f"the global batch is that of {ranks}; {remedy} the recipe's batch" in caplog.text


def test_change_of_the_result_is_found_at_its_first_step(
    recipe: Path, betons: Path, finished_run: Path, tmp_path: Path
) -> None:
    """Averaging leaves the losses as they are; another size in the second phase changes them from there on."""
    train(recipe, tmp_path, "--train.ema=none")
    status, out, err = run_main(compare.main, [str(finished_run), str(tmp_path)])
    assert (status, err) == (1, "")
    assert "train.ema: 0.5 and None\nthe losses of 20 steps are the same\nfirst difference: epoch 1: ema_top1" in out
    other = write_recipe(
        tmp_path / "other.yaml", [TINY_PHASES[0], TINY_PHASES[1] | {"px": 40}], data={"dir": str(betons)}
    )
    train(other, tmp_path / "other")
    status, out, _ = run_main(compare.main, [str(finished_run), str(tmp_path / "other")])
    assert status == 1
    assert "first difference: epoch 3, batch 1: loss " in out
    assert "10 of 20 steps differ" in out


def test_profile_and_other_step_options_train(betons: Path, tmp_path: Path) -> None:
    run_dir, second = tmp_path / "more", TINY_PHASES[1] | {"epochs": [1, 2]}
    second["lr"] = [{"epochs": [1, 2], "from": 0.002, "to": 0.001}]
    recipe = write_recipe(tmp_path / "two.yaml", [*ONE_EPOCH, second], data={"dir": str(betons)})
    options = "--train.mixup=0.2", "--train.ema=0.9", "--model.blurpool=1", "--train.flip_tta=1"
    train(recipe, run_dir, "--run.profile=true", "--dist.emulate_gpus=2", *options)
    assert {p.name for p in run_dir.glob("trace*")} == {"trace_32px_epoch1.json.gz", "trace_48px_epoch2.json.gz"}
    with gzip.open(run_dir / "trace_32px_epoch1.json.gz") as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    assert any("conv" in name for name in names)
    assert all(0 <= row.ema_top1 <= row.ema_top5 <= 100 for row in read_epochs(run_dir))
    assert checkpoint.load(run_dir / "last.pt")["ema"]["n_averaged"] > 0


def test_phase_that_is_compiled_only_now_says_so(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)  # nothing comes from the cache
    status, _, err = attempt(recipe, tmp_path, "--train.compile=default")
    assert status == 0, err
    ready = [line for line in err.splitlines() if "ready for the first step after" in line]
    assert [line.split(":")[0] for line in ready] == ["epochs 1-2, 32 px", "epoch 3, 48 px"]
    assert all(line.endswith(" s; the step was compiled, which training.warm_up can do beforehand") for line in ready)


def test_bf16_trains(betons: Path, tmp_path: Path) -> None:
    train(write_recipe(tmp_path / "one.yaml", ONE_EPOCH, data={"dir": str(betons)}), tmp_path, "--train.amp=bf16")
    assert all(weight.isfinite().all() for weight in checkpoint.load(tmp_path / "last.pt")["model"].values())


def test_cuda_without_a_gpu_is_refused(recipe: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    status, _, err = attempt(recipe, tmp_path, "--dist.device=cuda")
    assert status == 2
    assert "torch sees no GPU here" in err


@pytest.mark.slow
def test_two_nodes_on_loopback_train_together(recipe: Path, tmp_path: Path) -> None:
    port = free_port()
    node = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    nodes = [
        subprocess.Popen(
            [sys.executable, *node, f"--master-port={port}", f"--node-rank={rank}", *training_script(recipe, tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=300)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0]
    assert [line.split()[0] for line in printed[0].splitlines()] == ["epoch", "1", "2", "3"]
    assert printed[1] == ""


def raise_disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_fails_a_run_only_at_its_start_and_end(
    recipe: Path, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, written, save_last = tmp_path / "full", [], checkpoint.save_last

    def save_but_at_the_second(run_dir: Path, state: dict[str, object]) -> None:
        written.append(state)
        (raise_disk_full if len(written) == 2 else save_last)(run_dir, state)

    monkeypatch.setattr(checkpoint, "save_last", save_but_at_the_second)
    status, _, err = attempt(recipe, run_dir)
    assert (status, len(written)) == (0, 4)
    assert err.count("warning: last.pt not written") == 1
    one_epoch = write_recipe(tmp_path / "one.yaml", ONE_EPOCH, data={"dir": str(betons)})
    written.clear()
    status, _, err = attempt(one_epoch, tmp_path / "full_at_the_end")
    assert status == 2
    assert "warning: last.pt not written: [Errno 28]" in err
    assert "its last weights were not saved; the last good checkpoint is " in err
    monkeypatch.setattr(checkpoint, "save_last", save_last)
    with largest_file(1_000_000):
        status, _, err = attempt(one_epoch, tmp_path / "full_at_the_start")
    assert status == 2
    assert f"run.dir: {tmp_path / 'full_at_the_start'}/" in err
    assert "File too large; give another folder" in err
