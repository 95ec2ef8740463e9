"""Print the table of a DAWNBench submission from a run's TensorBoard events.

Reads what train_imagenet.py writes, and what the published imagenet18 code wrote: the scalars ``times/first`` (there
``first``; once, at the start), ``losses/test_1``, ``losses/test_5`` and ``times/eval_sec`` (after every epoch), whose
steps count images. An epoch's hours are the wall time from the first to its ``losses/test_5``, including phase
preparation and interruptions.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.common.errors import UserError, program
from data_tools.common.imagenet import TARGET_TOP5
from data_tools.common.options import Argument, Section, parse

FIRST, TOP1, TOP5, EVAL = "times/first", "losses/test_1", "losses/test_5", "times/eval_sec"
PUBLISHED_NAMES = {"first": FIRST}  # renamed here, since TensorBoard shows "first" before the scores

Scalars = dict[int, tuple[float, float]]  # (wall time, value) by step


def read(path: Path) -> dict[str, Scalars]:
    """The scalars of the four tags in an event file, or in the event files of a folder, in order of time.

    A record that is cut off ends its file; what a continued run logged again replaces the earlier scalars. UserError
    if there are no events.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, Scalars] = {tag: {} for tag in (FIRST, TOP1, TOP5, EVAL)}
    for event in (event for file in _files(path) for event in EventFileLoader(str(file)).Load()):
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            # Torch's purge_step: a run continued here. The step itself stays; if it is void, it is logged again.
            end = event.step + 1 if event.step else 0
            found = {tag: _before(end, scalars) for tag, scalars in found.items()}
        for value in event.summary.value:
            tag = PUBLISHED_NAMES.get(value.tag, value.tag)
            if tag in found and not (tag == FIRST and found[tag]):  # the clock starts once
                scalar = event.wall_time, float(make_ndarray(value.tensor).item())
                found[tag] = _before(event.step, found[tag]) | {event.step: scalar}
    return found


def _before(step: int, scalars: Scalars) -> Scalars:
    """Those of earlier steps: a step at or before the last one means that the run was resumed earlier."""
    return {earlier: scalar for earlier, scalar in scalars.items() if earlier < step}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError("no such file or folder", where=path, remedy="give an event file or a run folder")
    files = sorted(file for file in path.iterdir() if "tfevents" in file.name and file.is_file())
    if not files:
        raise UserError("no event files (events.out.tfevents.*) here", where=path, remedy="give a run folder")
    return files


def rows(found: dict[str, Scalars], ignore_eval: bool, path: Path) -> Iterator[tuple[int, float, float, float]]:
    """(epoch from 1, hours, top-1, top-5) of ``path``, up to the first epoch at or above 93 % top-5; ``ignore_eval``
    takes the seconds of all evaluations so far, including its own, out of its hours. UserError for a tag that is
    missing."""
    if not found[FIRST]:
        what = f"no scalar 'first' or {FIRST!r}, which marks the start"
        raise UserError(what, where=path, remedy="give the events of a run")
    start = next(iter(found[FIRST].values()))[0]
    evaluating = 0.0
    for epoch, (step, (wall_time, top5)) in enumerate(found[TOP5].items(), start=1):
        for tag in (TOP1, EVAL) if ignore_eval else (TOP1,):
            if step not in found[tag]:
                if step == max(found[TOP5]):  # the run ended while it logged this epoch
                    return
                raise UserError(f"no scalar {tag!r} of epoch {epoch} (step {step})", where=path)
        evaluating += found[EVAL][step][1] if ignore_eval else 0.0
        yield epoch, (wall_time - start - evaluating) / 3600, found[TOP1][step][1], top5
        if top5 >= TARGET_TOP5:
            return


class DawnOptions(Section):
    run: Annotated[Path, Argument("RUN_DIR")] = Field(description="a run folder, or an event file")
    ignore_eval: bool = Field(False, description="subtract the time of evaluation from the hours")


@program("data_tools.dawn_tsv")
def main(argv: Sequence[str]) -> int:
    options = parse(DawnOptions, argv, prog="data_tools.dawn_tsv", description=__doc__ or "")
    table = list(rows(read(options.run), options.ignore_eval, options.run))
    if not table:
        needed = [TOP5, TOP1] + [EVAL] * options.ignore_eval
        raise UserError(f"no epoch has been evaluated, with all of {', '.join(needed)}", where=options.run)
    print("epoch\thours\ttop1\ttop5")
    for epoch, hours, top1, top5 in table:
        print(f"{epoch}\t{hours:.4f}\t{top1:.4f}\t{top5:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
