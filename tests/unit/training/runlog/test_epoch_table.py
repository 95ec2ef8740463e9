"""The table of epochs, epochs.csv."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import rows

from training.runlog.epoch_table import EpochTable, duration, read_epochs, score_digits, write_epochs


def test_epochs_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = rows([10.123456, 20])
    write_epochs(tmp_path, written)
    for ours, theirs in zip(read_epochs(tmp_path), written, strict=True):
        assert ours.flat() == pytest.approx(theirs.flat(), nan_ok=True)


def test_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    write_epochs(tmp_path, rows([10, 20]))
    table = tmp_path / "epochs.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert [row.top5 for row in read_epochs(tmp_path)] == [10, 20]


def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_epochs(tmp_path, [replace(row, val_loss=2.5) for row in rows([10, 20])])
    table = tmp_path / "epochs.csv"
    assert [row.val_loss for row in read_epochs(tmp_path)] == [2.5, 2.5]
    lines = [line.split(",") for line in table.read_text().splitlines()]
    at = lines[0].index("val_loss")
    table.write_text("".join(",".join(cells[:at] + cells[at + 1 :]) + "\n" for cells in lines))
    earlier = read_epochs(tmp_path)
    assert [row.top5 for row in earlier] == [10, 20]
    assert all(math.isnan(row.val_loss) for row in earlier)


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


def test_line_says_what_was_not_recorded() -> None:
    row = replace(rows([50])[0], top5=math.nan, hours=0.002)
    assert EpochTable(images=400, unit="seconds", an_hour=3600).line(row).split()[:4] == ["1", "7.20", "30.0", "n/a"]
