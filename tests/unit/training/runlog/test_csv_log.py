"""Tables only grow: they keep every bit, are cut to where a run continues, and are refused where they are damaged."""

import math
from pathlib import Path

import pytest
from helpers.processes import largest_file
from helpers.run_folders import rows, write_epochs

from data_tools import dawn_tsv
from data_tools.common.options import OptionError
from training.runlog.csv_log import CsvLog
from training.runlog.epoch_table import EPOCHS, read_epochs
from training.runlog.run_log import EventLog
from training.runlog.step_table import STEP_COLUMNS, STEPS, StepRow, read_steps

LOSSES = (0.1 + 0.2, 1 / 3, 5e-324, 6.907755278982137, math.inf)


def steps(losses: tuple[float, ...] = LOSSES, epoch: int = 1) -> list[StepRow]:
    return [StepRow(epoch=epoch, batch=batch, lr=0.1 / batch, loss=loss) for batch, loss in enumerate(losses, start=1)]


def log(folder: Path, rows: int = 0) -> CsvLog:
    return CsvLog(folder / STEPS, STEP_COLUMNS, rows)


def add(table: CsvLog, added: list[StepRow]) -> None:
    table.add(row.cells() for row in added)


def test_losses_and_rates_are_read_to_the_last_bit(tmp_path: Path) -> None:
    table = log(tmp_path)
    add(table, steps()[:2])
    add(table, steps()[2:])
    assert read_steps(tmp_path) == steps()
    add(table, steps((math.nan,), epoch=2))
    assert math.isnan(read_steps(tmp_path)[-1].loss)


def test_epochs_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = rows([10.123456, 20])
    write_epochs(tmp_path, written)
    for ours, theirs in zip(read_epochs(tmp_path), written, strict=True):
        assert ours.flat() == pytest.approx(theirs.flat(), nan_ok=True)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])  # as written, and as a spreadsheet saves it
@pytest.mark.parametrize("kept", [0, 3, 5])
def test_table_is_cut_to_the_rows_in_the_checkpoint(tmp_path: Path, kept: int, end: bytes) -> None:
    first, path = log(tmp_path), tmp_path / STEPS
    add(first, steps()[:kept])
    rows = first.rows
    add(first, steps()[kept:])
    # The last row has no end: the run was killed while it wrote, or a spreadsheet left it out.
    path.write_bytes(path.read_bytes().replace(b"\n", end) + b"9,9,0." if kept < 5 else path.read_bytes()[:-1])
    continued = log(tmp_path, rows)
    add(continued, steps(epoch=3))
    assert read_steps(tmp_path) == [*steps()[:kept], *steps(epoch=3)]
    assert continued.rows == kept + 5


def test_table_that_was_removed_begins_anew(tmp_path: Path) -> None:
    add(log(tmp_path, rows=1000), steps(epoch=3))
    assert read_steps(tmp_path) == steps(epoch=3)


def test_rows_that_do_not_fit_on_the_disk_are_written_with_the_next_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = log(tmp_path)
    add(table, steps()[:2])
    with largest_file((tmp_path / STEPS).stat().st_size + 10):
        add(table, steps()[2:3])
    assert "steps.csv not written: [Errno 28]" in caplog.text
    assert read_steps(tmp_path) == steps()[:2]
    assert table.rows == 2
    add(table, steps()[3:])
    assert read_steps(tmp_path) == steps()


def test_events_of_a_full_disk_are_written_with_the_next_ones(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    events = EventLog(tmp_path, 0)
    events.add({"losses/test_1": 10.5}, 40, 1e9)
    with largest_file(events.path.stat().st_size):
        events.add({"losses/test_1": 11.5}, 80, 1e9 + 7)
    assert list(dawn_tsv.read(tmp_path)[dawn_tsv.TOP1].values()) == [(1e9, 10.5)]
    events.add({"losses/test_1": 12.5}, 120, 1e9 + 9)
    wanted = {40: (1e9, 10.5), 80: (1e9 + 7, 11.5), 120: (1e9 + 9, 12.5)}
    assert dawn_tsv.read(tmp_path)[dawn_tsv.TOP1] == wanted
    EventLog(tmp_path, 81).path.rename(tmp_path / "tfevents.z")
    assert list(dawn_tsv.read(tmp_path)[dawn_tsv.TOP1]) == [40, 80]


def test_last_row_without_its_end_is_still_being_written(tmp_path: Path) -> None:
    add(log(tmp_path), steps())
    with (tmp_path / STEPS).open("a") as file:
        file.write("2,1,0.1,2.")
    assert read_steps(tmp_path) == steps()


def test_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    write_epochs(tmp_path, rows([10, 20]))
    table = tmp_path / EPOCHS
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert [row.top5 for row in read_epochs(tmp_path)] == [10, 20]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no steps.csv here"),
        (b"epoch,batch,lr,loss\n", "no step is recorded yet"),
        (b"epoch,loss\n1,2\n", "row 1: no column batch, lr"),
        (b"epoch,batch,lr,loss\n1,1,0.1\n", "row 1: not 4 cells"),
        (b"epoch,batch,lr,loss\n1,1,0.1,2.5\n1,x,0.1,2.5\n", "row 2: "),
        (b'epoch,batch,lr,loss\n1,1,0.1,2.5\n2,"\n', "row 2: "),
        (b"epoch,batch,lr,loss\n\xff\xfe\n", "damaged"),
    ],
)
def test_damaged_table_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / STEPS).write_bytes(content)
    with pytest.raises(OptionError, match=said):
        read_steps(tmp_path)
