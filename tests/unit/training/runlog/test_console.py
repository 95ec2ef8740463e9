"""What is printed during a run: on a terminal, in a log, and as JSON."""

import contextlib
import json
import os
import pty
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from helpers.recipes import config
from helpers.run_folders import rows

from data_tools.common import console as common
from training.config.run_config import Log
from training.runlog import console
from training.runlog.console import Console
from training.runlog.epoch_table import EpochTable, Scores
from training.runlog.progress import Progress

TABLE = EpochTable(images=50_000)
PROGRESS = {
    "epoch": 3,
    "epochs": 28,
    "batch": 156,
    "batches": 312,
    "px": 128,
    "loss": 4.25,
    "lr": 1.3575,
    "images_per_s": 9216,
    "data_wait_percent": 1.4,
    "epoch_seconds_left": 75.2,
    "run_seconds_left": 7507,
}


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Standard error is a terminal, without a size as in many containers; what is given reads it up to a text, or until
    nothing more comes."""
    ours, theirs = pty.openpty()

    def read(until: str) -> str:
        found = ""
        while until not in found and select.select([ours], [], [], 5)[0]:
            found += os.read(ours, 1 << 16).decode()
        return found

    with os.fdopen(theirs, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        patch.setenv("COLUMNS", "80")
        yield read
    os.close(ours)


def parse_strict_json(line: str) -> dict[str, Any]:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (float("nan"), "?")]
)
def test_clock_format(seconds: float, text: str) -> None:
    assert console.clock(seconds) == text


def test_continuation_names_batch_epoch_and_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    common.set_up()
    console.print_continued(Path("runs/x/last.pt"), 3, 12)
    console.print_continued(Path("runs/x/last.pt"), 3, 0)
    assert capsys.readouterr() == (
        "",
        "continued at batch 12 of epoch 3 from runs/x/last.pt\ncontinued at the start of epoch 3 from runs/x/last.pt\n",
    )


def test_end_names_the_command_of_a_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common.set_up()
    console.print_end(config("titan8", f"--run.dir={tmp_path}/my run"), 3)
    assert f"training.report '{tmp_path}/my run'`" in capsys.readouterr().err


def test_notes_name_what_is_left_out_and_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    common.set_up()
    console.note_left_out(Progress(images=24, epoch_images=80), 85, 16, 3)
    console.note_left_out(Progress(images=16, epoch_images=80), 85, 16, 4)
    console.note_left_out(Progress(images=80, epoch_images=96), 64, 16, 0)  # continued with a smaller set
    all_finite = Scores(images=20, finite=20, loss=1.0, top1=0.0, top5=0.0)
    console.note_not_finite(2, {"training": replace(all_finite, images=30), "validation": all_finite})
    assert capsys.readouterr().err == (
        "note: the rest of epoch 1 is 3 batches of 16; 13 of its 85 images are left out\n"
        "note: the training loss of epoch 2 is the mean over 20 of 30 images; that of the others is not finite\n"
    )


def test_log_has_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(Log(seconds=0), TABLE)
    shown.epoch_begins(3, 0, 312)
    assert shown.is_due()
    shown.progress(PROGRESS)
    shown.progress(PROGRESS | {"batch": 312, "run_seconds_left": float("nan")})
    shown.epoch_done(rows([1, 2, 3])[2])
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    assert first == (
        "epoch 3/28, 50 % of 312 batches, 128 px: loss 4.250, lr 1.357, 9216 img/s, waiting 1 %, "
        "left: epoch 1:15, run 2:05:07"
    )
    assert second.endswith("run ?")
    assert [line.split()[0] for line in printed.out.splitlines()] == ["epoch", "3"]
    assert all(character.isprintable() or character == "\n" for character in printed.out + printed.err)


def test_log_prints_every_log_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("data_tools.common.progress_bar.time.monotonic", lambda: now[0])
    shown, wanted = Console(Log(seconds=30), TABLE), []
    for _ in range(100):
        now[0] += 1
        wanted.append(shown.is_due())
        if wanted[-1]:
            shown.progress(PROGRESS)
    assert [second for second, want in enumerate(wanted, start=1) if want] == [30, 60, 90]
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_terminal_shows_a_bar_and_clears_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch) as screen:
        shown = Console(Log(seconds=0), TABLE)
        shown.epoch_begins(3, 0, 312)
        shown.progress(PROGRESS)
        bar = screen("loss 4")
        shown.epoch_done(rows([1, 2, 3])[2])
        cleared = screen(" " * 80 + "\r")
    assert " 50 %|" in bar
    assert "156/312, left: epoch 1:15, run 2:05:07, loss 4" in bar
    assert max(len(line) for line in bar.split("\r")) == 80  # not wrapped
    assert "\n" not in bar
    assert cleared.split("\r")[-2:] == [" " * 80, ""]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["epoch", "3"]


def test_bar_moves_on_without_metrics_and_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen:
        now = [1000.0]
        monkeypatch.setattr("data_tools.common.progress_bar.time.monotonic", lambda: now[0])
        shown = Console(Log(seconds=30), TABLE)
        shown.epoch_begins(3, 0, 312)
        assert "  0 %|" in screen("0/312")
        shown.advance(1)  # too soon to be drawn
        now[0] += 1
        shown.advance(7)  # of the first 20 batches, after which the metrics are read
        drawn = screen("7/312")
        assert "2 %|" in drawn
        assert " 1/312" not in drawn
        shown.progress(PROGRESS)
        screen("loss 4.250")
        monkeypatch.setenv("COLUMNS", "50")
        now[0] += 1
        shown.advance(160)
        drawn = screen("2:05:07").split("\r")[-1]
        assert drawn.removeprefix("\x1b[J").rstrip() == "epoch 3  51 %, left: epoch 1:15, run 2:05:07"
        shown.validating(312)
        assert "epoch 3 100 %, validating" in screen("validating")
        monkeypatch.setenv("COLUMNS", "20")
        shown.close()
        assert screen(f"\r{' ' * 20}\r").split("\r")[-2:] == [" " * 20, ""]


def test_json_prints_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(Log(format="json", seconds=0), TABLE)
    shown.epoch_begins(3, 0, 312)
    shown.progress(PROGRESS | {"run_seconds_left": float("nan"), "loss": float("inf")})
    shown.epoch_done(rows([1, 2, 3])[2])
    printed = capsys.readouterr()
    progress, epoch = map(parse_strict_json, printed.out.splitlines())
    assert printed.err == ""
    assert (progress["event"], progress["batch"], progress["lr"]) == ("progress", 156, 1.3575)
    assert (progress["run_seconds_left"], progress["loss"]) == (None, None)
    assert (epoch["event"], epoch["top5"], epoch["global_batch"], epoch["ema_top5"]) == ("epoch", 3, 4096, None)
    assert epoch["data_wait_percent"] == 1.5
