"""Print the table of a DAWNBench submission from a run's TensorBoard events.

Reads what train_imagenet.py writes, and what the published imagenet18 code wrote: the scalars ``times/first`` (there
``first``; once, at the start), ``losses/test_1``, ``losses/test_5`` and ``times/eval_sec`` (after every epoch), whose
steps count images. An epoch's hours are the wall time from the first to its ``losses/test_5``, including phase
preparation and interruptions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data_tools.common.errors import UserError, program
from data_tools.common.imagenet import TARGET_TOP5
from data_tools.common.options import Argument, Section, parse

FIRST, TOP1, TOP5, EVAL = "times/first", "losses/test_1", "losses/test_5", "times/eval_sec"
PUBLISHED_NAMES = {"first": FIRST}  # renamed here, since TensorBoard shows "first" before the scores


class EventsError(UserError):
    """No table can be made of these events; the message says why."""


@dataclass(slots=True)
class Scalars:
    """The scalars of one tag: (wall time, value) by step."""

    by_step: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, step: int, wall_time: float, value: float) -> None:
        """Add a scalar. A step at or before the last one means that the run was resumed earlier: drop what followed."""
        self.forget_from(step)
        self.by_step[step] = wall_time, value

    def forget_from(self, step: int) -> None:
        if self.by_step and next(reversed(self.by_step)) >= step:
            self.by_step = {earlier: scalar for earlier, scalar in self.by_step.items() if earlier < step}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An epoch, from 1; accuracies in percent."""

    epoch: int
    hours: float
    top1: float
    top5: float


def read(path: Path) -> dict[str, Scalars]:
    """The scalars of the four tags in an event file, or in the event files of a folder, in order of time.

    A record that is cut off ends its file; what a continued run logged again replaces the earlier scalars. EventsError
    if there are no events.
    """
    scalars_by_tag = {tag: Scalars() for tag in (FIRST, TOP1, TOP5, EVAL)}
    for file in _files(path):
        for event in _events(file):
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                # Torch's purge_step: a run continued here. The step itself stays; if it is void, it is logged again.
                for scalars in scalars_by_tag.values():
                    scalars.forget_from(event.step + 1 if event.step else 0)
            for value in event.summary.value:
                tag = PUBLISHED_NAMES.get(value.tag, value.tag)
                if tag == FIRST and scalars_by_tag[FIRST].by_step:
                    continue  # the clock starts once
                if tag in scalars_by_tag:
                    scalars_by_tag[tag].add(event.step, event.wall_time, _number(value))
    return scalars_by_tag


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise EventsError("no such file or folder", where=path, remedy="give an event file or a run folder")
    files = sorted(file for file in path.iterdir() if "tfevents" in file.name and file.is_file())
    if not files:
        raise EventsError("no event files (events.out.tfevents.*) here", where=path, remedy="give a run folder")
    return files


def _events(file: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return iter(EventFileLoader(str(file)).Load())


def _number(value: Any) -> float:
    from tensorboard.util.tensor_util import make_ndarray

    return float(make_ndarray(value.tensor).item())


def rows(scalars_by_tag: dict[str, Scalars], ignore_eval: bool, path: Path) -> Iterator[Row]:
    """The epochs of ``path`` up to the first one at or above 93 % top-5; ``ignore_eval`` takes the seconds of all
    evaluations so far, including its own, out of its hours. EventsError for a tag that is missing."""
    if not scalars_by_tag[FIRST].by_step:
        raise EventsError(
            f"no scalar 'first' or {FIRST!r}, which marks the start", where=path, remedy="give the events of a run"
        )
    start = next(iter(scalars_by_tag[FIRST].by_step.values()))[0]
    evaluating = 0.0
    for epoch, (step, (wall_time, top5)) in enumerate(scalars_by_tag[TOP5].by_step.items(), start=1):
        for tag in (TOP1, EVAL) if ignore_eval else (TOP1,):
            if step not in scalars_by_tag[tag].by_step:
                # The run ended while it logged this epoch.
                if step == next(reversed(scalars_by_tag[TOP5].by_step)):
                    return
                raise EventsError(f"no scalar {tag!r} of epoch {epoch} (step {step})", where=path)
        evaluating += scalars_by_tag[EVAL].by_step[step][1] if ignore_eval else 0.0
        hours, top1 = (wall_time - start - evaluating) / 3600, scalars_by_tag[TOP1].by_step[step][1]
        yield Row(epoch=epoch, hours=hours, top1=top1, top5=top5)
        if top5 >= TARGET_TOP5:
            return


class DawnOptions(Section):
    """One table."""

    run: Annotated[Path, Argument("RUN_DIR")] = Field(description="a run folder, or an event file")
    ignore_eval: bool = Field(False, description="subtract the time of evaluation from the hours")


@program("data_tools.dawn_tsv")
def main(argv: Sequence[str]) -> int:
    options = parse(DawnOptions, argv, prog="data_tools.dawn_tsv", description=__doc__ or "")
    table = list(rows(read(options.run), options.ignore_eval, options.run))
    if not table:
        raise EventsError(f"no epoch was evaluated (no scalar {TOP5!r})", where=options.run)
    print("epoch\thours\ttop1\ttop5")
    for row in table:
        print(f"{row.epoch}\t{row.hours:.4f}\t{row.top1:.4f}\t{row.top5:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
