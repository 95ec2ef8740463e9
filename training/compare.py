"""Compare two runs: their losses step by step, then the scores of their epochs.

Names the first difference. The exit status is 0 if there is none, else 1.
"""

from __future__ import annotations

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
from training.reporting.run_folder import read_config
from training.runlog.epoch_table import EpochRow, read_epochs
from training.runlog.sessions import Session, read_sessions
from training.runlog.step_table import StepRow, read_steps

RESULTS = ("train_loss", "top1", "top5", "val_loss", "ema_top1", "ema_top5")  # of an epoch, without times
NO_CAUSE = {"run.dir", "run.profile"}  # options that change no loss; nor do those of `log`


class CompareOptions(Section):
    """One comparison."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A value that is ``first`` in one run and ``second`` in the other."""

    where: str
    name: str
    first: float
    second: float

    @property
    def relative(self) -> float:
        """The difference as a share of the larger value; infinite if either is not finite."""
        if not (math.isfinite(self.first) and math.isfinite(self.second)):
            return math.inf
        return abs(self.first - self.second) / max(abs(self.first), abs(self.second))

    def __str__(self) -> str:
        return f"{self.where}: {self.name} {self.first!r} and {self.second!r} (relative difference {self.relative:.2g})"


def values_differ(where: str, name: str, first: float, second: float, tolerance: float) -> Iterator[Difference]:
    """The difference, if there is one; nan is the same as nan."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return
    found = Difference(where=where, name=name, first=first, second=second)
    if found.relative > tolerance:
        yield found


def compare_steps(
    first: Iterable[StepRow], second: Iterable[StepRow], tolerance: float
) -> tuple[int, list[Difference]]:
    """How many steps both have, and where they differ, at most once a step: in the rate or else in the loss."""
    others, common, found = {row.position: row for row in second}, 0, []
    for row in first:
        other = others.get(row.position)
        if other is None:
            continue
        common += 1
        where = f"epoch {row.epoch}, batch {row.batch}"
        for name in ("lr", "loss"):
            differing = list(values_differ(where, name, getattr(row, name), getattr(other, name), tolerance))
            found += differing
            if differing:
                break
    return common, found


def compare_epochs(first: Iterable[EpochRow], second: Iterable[EpochRow], tolerance: float) -> list[Difference]:
    """Where the scores of the epochs that both have differ."""
    others = {row.epoch: row for row in second}
    return [
        difference
        for row in first
        if row.epoch in others
        for name in RESULTS
        for difference in values_differ(
            f"epoch {row.epoch}", name, getattr(row, name), getattr(others[row.epoch], name), tolerance
        )
    ]


def possible_causes(folders: Sequence[Path]) -> Iterator[str]:
    """Options, versions and hardware that are not the same in both runs, a line each."""
    options, sessions = [], []
    for folder in folders:
        config, _ = read_config(folder)
        flat = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}
        options.append({k: v for k, v in flat.items() if k not in NO_CAUSE and not k.startswith("log.")})
        sessions.append(read_sessions(folder))
    yield from _unlike(*options)
    if all(sessions):
        yield from _unlike(*(_environment(each[-1]) for each in sessions))


def _environment(session: Session) -> dict[str, Any]:
    names = ("processes", "gpus", "cpu", "precision")
    return {name: getattr(session, name) for name in names} | dict(session.versions)


def _unlike(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*first, *second]):
        if (one := first.get(key)) != (other := second.get(key)):
            long = isinstance(one, list | str) and len(str(one)) > 60
            yield f"{key}: not the same" if long else f"{key}: {one} and {other}"


def say_ends(folders: Sequence[Path], steps: Sequence[Sequence[StepRow]], common: int) -> None:
    """Print which steps only one of the runs has."""
    for folder, own in zip(folders, steps, strict=True):
        if more := len(own) - common:
            print(f"only {folder} has {plural(more, 'more step')}")


@program("training.compare")
def main(argv: Sequence[str]) -> int:
    options = parse(CompareOptions, argv, prog="training.compare", description=__doc__ or "")
    first, second = options.runs
    steps = read_steps(first), read_steps(second)
    common, found = compare_steps(*steps, options.tolerance)
    if not common:
        raise OptionError("the two runs have no step in common", where="RUN_DIR")
    epochs = compare_epochs(read_epochs(first), read_epochs(second), options.tolerance)
    for cause in possible_causes(options.runs):
        print(cause)
    say_ends(options.runs, steps, common)
    if found:
        largest = max(found, key=lambda each: each.relative)
        print(f"first difference: {found[0]}")
        print(f"{len(found)} of {plural(common, 'step')} differ; largest difference: {largest}")
    elif epochs:
        print(f"the losses of {plural(common, 'step')} are the same")
        print(f"first difference: {epochs[0]}")
    else:
        print(f"no difference in {plural(common, 'step')} and the epochs that both have")
    return 1 if found or epochs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
