"""Compare two runs: their losses step by step, then the scores of their epochs.

Names the first difference. The exit status is 0 if there is none, else 1.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from data_tools.common.console import plural
from data_tools.common.errors import program
from data_tools.common.options import Argument, OptionError, Section, parse
from training.reporting.run_folder import differing_keys, read_config
from training.runlog.epoch_table import EpochRow, read_epochs
from training.runlog.sessions import read_sessions
from training.runlog.step_table import StepRow, read_steps

Row = StepRow | EpochRow
RESULTS = ("train_loss", "top1", "top5", "val_loss", "ema_top1", "ema_top5")  # of an epoch, without times
NO_CAUSE = {"run.dir", "run.profile"}  # options that change no loss; nor do those of `log`


class CompareOptions(Section):
    runs: Annotated[tuple[Path, ...], Argument("RUN_DIR")] = Field(description="two run folders")
    tolerance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="relative difference up to which values count as the same; 0: the same to the last bit",
    )

    @field_validator("runs")
    @classmethod
    def _are_two(cls, runs: tuple[Path, ...]) -> tuple[Path, ...]:
        if len(runs) != 2:
            raise OptionError(f"{plural(len(runs), 'run')} given", remedy="give two folders")
        return runs


@dataclass(frozen=True, slots=True)
class Difference:
    where: str
    name: str
    first: float
    second: float

    @property
    def relative(self) -> float:
        """The difference as a share of the larger value; infinite if one is not finite. nan is the same as nan."""
        if self.first == self.second or (math.isnan(self.first) and math.isnan(self.second)):
            return 0.0
        if not (math.isfinite(self.first) and math.isfinite(self.second)):
            return math.inf
        return abs(self.first - self.second) / max(abs(self.first), abs(self.second))

    def __str__(self) -> str:
        return f"{self.where}: {self.name} {self.first!r} and {self.second!r} (relative difference {self.relative:.2g})"


def row_differences(
    first: Iterable[Row], second: Iterable[Row], names: Sequence[str], tolerance: float
) -> tuple[int, list[Difference]]:
    """How many rows both have, and where they differ: at most once a row, in the first such column of ``names``."""
    others = {_place(row): row for row in second}
    pairs = [(row, others[_place(row)]) for row in first if _place(row) in others]
    found: list[Difference] = []
    for row, other in pairs:
        values = (Difference(_place(row), name, getattr(row, name), getattr(other, name)) for name in names)
        found += [each for each in values if each.relative > tolerance][:1]
    return len(pairs), found


def _place(row: Row) -> str:
    return f"epoch {row.epoch}, batch {row.batch}" if isinstance(row, StepRow) else f"epoch {row.epoch}"


def possible_causes(folders: Sequence[Path]) -> Iterator[str]:
    """Options, versions and hardware that are not the same in both runs, a line each."""
    options, sessions = [], []
    for folder in folders:
        config, _ = read_config(folder)
        flat = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}
        options.append({k: v for k, v in flat.items() if k not in NO_CAUSE and not k.startswith("log.")})
        sessions.append(read_sessions(folder))
    yield from _unlike(*options)
    names = ("processes", "gpus", "cpu", "precision")
    yield from _unlike(*({n: getattr(s[-1], n) for n in names} | dict(s[-1].versions) for s in sessions))


def _unlike(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for key in differing_keys([first, second]):
        one, other = first.get(key), second.get(key)
        long = isinstance(one, list | str) and len(str(one)) > 60
        yield f"{key}: not the same" if long else f"{key}: {one} and {other}"


@program("training.compare")
def main(argv: Sequence[str]) -> int:
    options = parse(CompareOptions, argv, prog="training.compare", description=__doc__ or "")
    first, second = options.runs
    steps = read_steps(first), read_steps(second)
    common, found = row_differences(*steps, ("lr", "loss"), options.tolerance)
    if not common:
        raise OptionError("the two runs have no step in common", where="RUN_DIR")
    _, in_scores = row_differences(read_epochs(first), read_epochs(second), RESULTS, options.tolerance)
    for cause in possible_causes(options.runs):
        print(cause)
    for folder, own in zip(options.runs, steps, strict=True):
        if more := len(own) - common:
            print(f"only {folder} has {plural(more, 'more step')}")
    if found:
        largest = max(found, key=lambda each: each.relative)
        print(f"first difference: {found[0]}")
        print(f"{len(found)} of {plural(common, 'step')} differ; largest difference: {largest}")
    elif in_scores:
        print(f"the losses of {plural(common, 'step')} are the same\nfirst difference: {in_scores[0]}")
    else:
        print(f"no difference in {plural(common, 'step')} and the epochs that both have")
    return 1 if found or in_scores else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
