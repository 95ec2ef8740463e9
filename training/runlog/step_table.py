"""The table of a run's steps, ``steps.csv``: learning rate and loss of every global batch, with all their digits."""

from dataclasses import dataclass
from pathlib import Path

from data_tools.common.options import OptionError
from training.runlog.csv_log import read_table

STEPS = "steps.csv"
STEP_COLUMNS = ("epoch", "batch", "lr", "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """The training step on batch ``batch`` of epoch ``epoch``, both counted from 1; ``loss`` is the mean over the
    global batch, before the update."""

    epoch: int
    batch: int
    lr: float
    loss: float

    def cells(self) -> tuple[str, ...]:
        """As in the table; `repr` is the shortest text of the same bits."""
        return str(self.epoch), str(self.batch), repr(self.lr), repr(self.loss)


def read_steps(run_dir: Path) -> list[StepRow]:
    """The rows of a run folder's ``steps.csv``. OptionError if there are none, or if they are damaged."""
    path = run_dir / STEPS
    if not path.is_file():
        raise OptionError(f"no {STEPS} here", where=run_dir, remedy="give a run folder")
    rows = [StepRow(**row) for row in read_table(path, STEP_COLUMNS)]
    if not rows:
        raise OptionError("no step is recorded yet", where=path)
    return rows
