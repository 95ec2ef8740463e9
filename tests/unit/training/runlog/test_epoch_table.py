"""The table of epochs, epochs.csv."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import rows, run_folder

from training.reporting.report_html import page
from training.reporting.run_folder import read_runs
from training.runlog.epoch_table import EpochTable, duration, score_digits


@pytest.mark.parametrize(
    ("images", "digits"), [(1, 0), (12, 0), (100, 0), (101, 1), (400, 1), (10_000, 2), (50_000, 3)]
)
def test_scores_have_the_digits_that_the_images_support(images: int, digits: int) -> None:
    assert score_digits(images) == digits
    # One image more or less shows, and a tenth of that would not be seen.
    assert 10**-digits <= 100 / images or digits == 0


@pytest.mark.parametrize(
    ("hours", "text"), [(2.3657, "2.3657 h"), (0.1, "0.1000 h"), (0.05, "3.00 min"), (0.0021, "7.6 s")]
)
def test_short_times_are_not_in_hours(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_line_says_that_there_is_no_finite_loss() -> None:
    row = replace(rows([50])[0], train_loss=math.nan, hours=0.002)
    line = EpochTable(images=400, unit="seconds", an_hour=3600).line(row)
    assert line.split()[:5] == ["1", "7.20", "30.0", "50.0", "n/a"]


def test_epoch_that_was_continued_at_its_end_has_no_speed(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50])])
    run = replace(run, rows=[replace(run.rows[0], images_per_s=math.nan, data_wait_percent=math.nan)])
    assert run.table.line(run.rows[0]).split()[-2:] == ["n/a", "128"]
    assert "<td>n/a</td><td>n/a</td></tr>" in page([run], None)
