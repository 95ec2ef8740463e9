"""MLPerf's log, by MLPerf's compliance checker and by hand."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.mlperf import complaints
from helpers.processes import largest_file
from helpers.recipes import config

from data_tools.common.options import OptionError
from training.runlog.eta import WorkModel
from training.runlog.mllog import TOKEN, MlLog, facts

CONFIG = config("titan8")
WORK = WorkModel(
    schedule=CONFIG.schedule,
    images={"train_160": 1_281_167, "val_160": 50_000, "train_320": 1_281_167, "val_320": 50_000},
    gpus=8,
)
FACTS = facts(CONFIG, WORK, "8 × NVIDIA TITAN RTX")


def events(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(TOKEN) for line in lines)
    return [json.loads(line.removeprefix(TOKEN)) for line in lines]


def keys(path: Path) -> list[str]:
    """Keys of the run, without what stands before it, each with its epoch."""
    told = [f"{event['key']} {event['metadata'].get('epoch_num', '')}".strip() for event in events(path)]
    return told[told.index("run_start") :]


def epoch(log: MlLog, number: int, top1: float = 50.0, last: bool = False) -> None:
    log.epoch_begins(number, 0, FACTS)
    log.validation_begins(number)
    log.epoch_done(number, top1, last)


def epoch_keys(number: int) -> list[str]:
    return [f"{key} {number}" for key in ("epoch_start", "epoch_stop", "eval_start", "eval_accuracy", "eval_stop")]


def test_complete_run_complies(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = MlLog(path, epoch=0, batch=0)
    epoch(log, 1)
    epoch(log, 2, 76.0)
    epoch(log, 3, 75.0, last=True)
    assert complaints(path) == ""
    told = {event["key"]: event["value"] for event in events(path)}
    assert told["submission_benchmark"] == "resnet"
    assert told["submission_division"] == "open"
    assert (told["train_samples"], told["eval_samples"], told["global_batch_size"]) == (1_281_167, 50_000, 4096)
    assert told["opt_base_learning_rate"] == 2.0
    assert keys(path) == ["run_start", *epoch_keys(1), *epoch_keys(2), *epoch_keys(3), "run_stop 3"]
    assert events(path)[-1]["metadata"]["status"] == "success"
    times = [event["time_ms"] for event in events(path)]
    assert times == sorted(times)


def test_run_below_mlperfs_target_is_no_success(tmp_path: Path) -> None:
    log = MlLog(tmp_path / "log", epoch=0, batch=0)
    epoch(log, 1, 75.8, last=True)
    assert events(tmp_path / "log")[-1]["metadata"]["status"] == "aborted"


def test_checker_finds_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    epoch(MlLog(path, epoch=0, batch=0), 1)
    assert "run_stop" in complaints(path)


@pytest.mark.parametrize("batch", [0, 100])
def test_continued_run_goes_on_where_its_checkpoint_is(tmp_path: Path, batch: int) -> None:
    path = tmp_path / "log"
    log = MlLog(path, epoch=0, batch=0)
    epoch(log, 1, 76.0)
    epoch(log, 2)  # of which the checkpoint knows nothing, or its first batches
    again = MlLog(path, epoch=1, batch=batch)
    again.epoch_begins(2, batch, FACTS)
    again.validation_begins(2)
    again.epoch_done(2, 50.0, last=True)
    assert keys(path) == ["run_start", *epoch_keys(1), *epoch_keys(2), "run_stop 2"]
    assert events(path)[-1]["metadata"]["status"] == "success"  # of the first start's epoch
    assert complaints(path) == ""


@pytest.mark.parametrize("torn", ["", TOKEN[:3], f'{TOKEN}{{"namespace": "", "ti'])
def test_run_that_is_complete_and_then_made_longer_ends_once(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log"
    epoch(MlLog(path, epoch=0, batch=0), 1, 76.0, last=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(torn)  # the machine stopped as this was written
    epoch(MlLog(path, epoch=1, batch=0), 2, 50.0, last=True)
    assert keys(path) == ["run_start", *epoch_keys(1), *epoch_keys(2), "run_stop 2"]
    assert complaints(path) == ""


def test_event_that_does_not_fit_on_the_disk_is_left_out_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    log = MlLog(path, epoch=0, batch=0)
    epoch(log, 1)
    with largest_file(path.stat().st_size + 10):
        log.epoch_begins(2, 0, FACTS)
    assert "warning: the MLPerf log not written: " in capsys.readouterr().err
    log.validation_begins(2)
    assert keys(path) == ["run_start", *epoch_keys(1), "epoch_stop 2", "eval_start 2"]


def test_log_begins_with_the_start_that_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = MlLog(path, epoch=4, batch=7)
    log.epoch_begins(5, 7, FACTS)
    log.validation_begins(5)
    log.epoch_done(5, 76.0, last=True)
    assert keys(path) == ["run_start", *epoch_keys(5), "run_stop 5"]
    assert complaints(path) == ""


def test_new_run_replaces_the_log_of_another(tmp_path: Path) -> None:
    path = tmp_path / "log"
    epoch(MlLog(path, epoch=0, batch=0), 1)
    MlLog(path, epoch=0, batch=0)
    assert [event["key"] for event in events(path)] == ["init_start"]


@pytest.mark.parametrize("content", [b"epoch,hours\n", b'{"key": 1}\n', b"3\n", b"\xff\n", b"notes", b": x"])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=r"log\.mllog"):
        MlLog(path, epoch=0, batch=0)
    assert path.read_bytes() == content


def test_pipe_is_written_to_and_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.delattr(Path, "read_text")
    MlLog(pipe, epoch=1, batch=0)
    assert b"init_start" in os.read(reader, 10_000)
    os.close(reader)


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"log\.mllog: cannot be written"):
        MlLog(tmp_path / "none" / "log", epoch=0, batch=0)
    with pytest.raises(OptionError, match=r"log\.mllog: cannot be "):
        MlLog(tmp_path, epoch=0, batch=0)
