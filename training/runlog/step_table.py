"""The table of a run's steps, ``steps.csv``: learning rate and loss of every global batch, with all their digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.files import append_whole, write_atomically
from data_tools.common.options import OptionError

STEPS = "steps.csv"
HEADING = "epoch,batch,lr,loss"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """The training step on batch ``batch`` of epoch ``epoch``, both counted from 1; ``loss`` is the mean over the
    global batch, before the update."""

    epoch: int
    batch: int
    lr: float
    loss: float

    @property
    def position(self) -> tuple[int, int]:
        return self.epoch, self.batch


def _line(row: StepRow) -> str:
    return f"{row.epoch},{row.batch},{row.lr!r},{row.loss!r}\n"  # repr is the shortest text of the same bits


def begin_steps(run_dir: Path, epochs: int, batch: int) -> None:
    """Begin the table, or keep its rows up to where the run continues: ``batch`` batches into the epoch after
    ``epochs`` complete ones. OptionError if what is to be kept is damaged."""
    path, kept = run_dir / STEPS, []
    if path.is_file() and (epochs or batch):
        for row in _rows(path):
            if row.position > (epochs + 1, batch):
                break
            kept.append(_line(row))
    write_atomically(path, "".join([f"{HEADING}\n", *kept]).encode())


def add_steps(run_dir: Path, rows: Sequence[StepRow]) -> None:
    """Add the newest steps to the table: all of them, or none and an OSError."""
    append_whole(run_dir / STEPS, "".join(map(_line, rows)).encode())


def read_steps(run_dir: Path) -> list[StepRow]:
    """The rows of a run folder's ``steps.csv``, but for a last one that is being written. OptionError if there are
    none, or if they are damaged."""
    path = run_dir / STEPS
    if not path.is_file():
        remedy = "give the folder of a run; those of earlier versions have no such file"
        raise OptionError(f"no {STEPS} here", where=run_dir, remedy=remedy)
    rows = list(_rows(path))
    if not rows:
        raise OptionError("no step is recorded yet", where=path)
    return rows


def _rows(path: Path) -> Iterator[StepRow]:
    """The rows, but for a last line without its end."""
    number, before = 0, (0, 0)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return
                if number == 1:
                    if line != f"{HEADING}\n":
                        raise ValueError(f"not {HEADING}")
                    continue
                row = _row(line)
                if row.position <= before:
                    raise ValueError("not in order")
                before = row.position
                yield row
    except ValueError as error:
        what = f"damaged, or of another version (line {number}: {error})"
        raise OptionError(what, where=path, remedy="restore it, or remove it") from None


def _row(line: str) -> StepRow:
    epoch, batch, lr, loss = line.rstrip("\n").split(",")
    return StepRow(epoch=int(epoch), batch=int(batch), lr=float(lr), loss=float(loss))
