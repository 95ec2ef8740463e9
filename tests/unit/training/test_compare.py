"""The first difference between two runs is named, and nothing is called one that is none."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import SESSION, rows, run_folder, write_epochs

from training import compare
from training.runlog.csv_log import CsvLog
from training.runlog.step_table import STEP_COLUMNS, StepRow

STEPS = [StepRow(epoch=1 + n // 4, batch=1 + n % 4, lr=0.5, loss=7 / (n + 1)) for n in range(8)]


def record(path: Path, steps: Sequence[StepRow] = STEPS, **more: object) -> Path:
    folder = run_folder(path, [50, 60], **more)
    CsvLog(folder / "steps.csv", STEP_COLUMNS).add(row.cells() for row in steps)
    return folder


def changed(at: int, **values: float) -> list[StepRow]:
    return [replace(row, **values) if number >= at else row for number, row in enumerate(STEPS)]


NEXT = math.nextafter(STEPS[5].loss, 9)


@pytest.mark.parametrize(
    ("steps", "arguments", "status", "said"),
    [
        (STEPS, [], 0, "no difference in 8 steps"),
        (changed(5, loss=NEXT), [], 1, f"first difference: epoch 2, batch 2: loss {STEPS[5].loss!r} and {NEXT!r}"),
        (changed(7, loss=STEPS[7].loss + 1e-12), ["--tolerance=1e-9"], 0, "no difference in 8 steps"),
        (
            changed(7, loss=STEPS[7].loss + 1e-3),
            ["--tolerance=1e-9"],
            1,
            "1 of 8 steps differ; largest difference: epoch 2, batch 4",
        ),
        (changed(4, lr=0.25, loss=9.0), [], 1, "first difference: epoch 2, batch 1: lr 0.5 and 0.25"),
        (changed(6, loss=math.nan), ["--tolerance=1"], 1, "2 of 8 steps differ"),
        (STEPS[:5], [], 0, "no difference in 5 steps"),
        (STEPS[2:], [], 0, "no difference in 6 steps"),
    ],
)
def test_first_difference_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    steps: list[StepRow],
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    first, second = record(tmp_path / "first"), record(tmp_path / "second", steps)
    assert compare.main([str(first), str(second), *arguments]) == status
    out = capsys.readouterr().out
    assert said in out
    assert (f"only {first} has {8 - len(steps)} more steps" in out) == (len(steps) < 8)


def test_losses_that_are_not_numbers_are_the_same_in_both(tmp_path: Path) -> None:
    folders = [record(tmp_path / name, changed(6, loss=math.nan)) for name in ("first", "second")]
    assert compare.main([str(folder) for folder in folders]) == 0


def test_scores_are_compared_where_the_losses_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = record(tmp_path / "first"), record(tmp_path / "second")
    table = rows([50, 60])
    write_epochs(second, [table[0], replace(table[1], top1=39.9, hours=7)])
    assert compare.main([str(first), str(second)]) == 1
    out = capsys.readouterr().out
    assert "the losses of 8 steps are the same\nfirst difference: epoch 2: top1 40.0 and 39.9" in out


def test_options_and_hardware_that_differ_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = replace(SESSION, precision="bfloat16", versions=SESSION.versions | {"torch": "2.16.0"})
    first = record(tmp_path / "first", argv=["--run.seed=3", "--log.seconds=5"])
    second = record(tmp_path / "second", sessions=[session], argv=["--run.dir=elsewhere"])
    assert compare.main([str(first), str(second)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run.seed: 3 and 0",
        "precision: float16 and bfloat16",
        "torch: 2.15.0 and 2.16.0",
        "no difference in 8 steps and the epochs that both have",
    ]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (lambda whole, bare, late: [whole], "1 run given; give two folders"),
        (lambda whole, bare, late: [whole, bare], "no steps.csv here"),
        (lambda whole, bare, late: [whole, late], "no step in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folders: Callable[[Path, Path, Path], list[Path]],
    said: str,
) -> None:
    late = record(tmp_path / "late", [replace(row, epoch=row.epoch + 2) for row in STEPS])
    given = folders(record(tmp_path / "whole"), run_folder(tmp_path / "bare", [50]), late)
    assert compare.main([str(folder) for folder in given]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error
