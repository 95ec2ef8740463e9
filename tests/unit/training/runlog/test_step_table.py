"""steps.csv keeps every bit, is continued from where a run goes on, and is refused where it is damaged."""

import math
from pathlib import Path

import pytest
from helpers.processes import largest_file

from data_tools.common.options import OptionError
from training.runlog.step_table import STEPS, StepRow, add_steps, begin_steps, read_steps

LOSSES = (0.1 + 0.2, 1 / 3, 5e-324, 6.907755278982137, math.inf)


def rows(losses: tuple[float, ...] = LOSSES, epoch: int = 1) -> list[StepRow]:
    return [StepRow(epoch=epoch, batch=batch, lr=0.1 / batch, loss=loss) for batch, loss in enumerate(losses, start=1)]


def test_losses_and_rates_are_read_to_the_last_bit(tmp_path: Path) -> None:
    begin_steps(tmp_path, 0, 0)
    add_steps(tmp_path, rows()[:2])
    add_steps(tmp_path, rows()[2:])
    assert read_steps(tmp_path) == rows()
    add_steps(tmp_path, rows((math.nan,), epoch=2))
    assert math.isnan(read_steps(tmp_path)[-1].loss)


@pytest.mark.parametrize(("epochs", "batch", "kept"), [(0, 0, 0), (0, 3, 3), (1, 0, 5), (1, 2, 7), (2, 0, 10)])
def test_continued_run_keeps_the_steps_behind_it(tmp_path: Path, epochs: int, batch: int, kept: int) -> None:
    begin_steps(tmp_path, 0, 0)
    add_steps(tmp_path, [*rows(), *rows(epoch=2)])
    with (tmp_path / STEPS).open("a") as file:
        file.write("3,1,0.1,2.")  # the run was killed as it wrote
    begin_steps(tmp_path, epochs, batch)
    add_steps(tmp_path, rows(epoch=3))
    assert read_steps(tmp_path) == [*[*rows(), *rows(epoch=2)][:kept], *rows(epoch=3)]


def test_steps_that_do_not_fit_on_the_disk_leave_the_table_whole(tmp_path: Path) -> None:
    begin_steps(tmp_path, 0, 0)
    add_steps(tmp_path, rows()[:2])
    with largest_file((tmp_path / STEPS).stat().st_size + 10), pytest.raises(OSError, match="No space"):
        add_steps(tmp_path, rows()[2:])
    add_steps(tmp_path, rows()[3:])
    assert read_steps(tmp_path) == [*rows()[:2], *rows()[3:]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no steps.csv here"),
        (b"epoch,batch,lr,loss\n", "no step is recorded yet"),
        (b"epoch,loss\n1,2\n", "line 1: not epoch,batch,lr,loss"),
        (b"epoch,batch,lr,loss\n1,1,0.1\n", "line 2: "),
        (b"epoch,batch,lr,loss\n1,1,0.1,2.5\n1,x,0.1,2.5\n", "line 3: "),
        (b"epoch,batch,lr,loss\n1,2,0.1,2.5\n1,1,0.1,2.5\n", "line 3: not in order"),
        (b"epoch,batch,lr,loss\n\xff\xfe\n", "damaged"),
    ],
)
def test_damaged_table_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / STEPS).write_bytes(content)
    with pytest.raises(OptionError, match=said):
        read_steps(tmp_path)
