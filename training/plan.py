"""Print the schedule of a run, a row per epoch, or write it as CSV, a row per batch.

Takes every option of train_imagenet.py.
"""

import csv
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from data_tools.common.console import plural
from data_tools.common.errors import program
from data_tools.common.files import check_output, partial_file
from data_tools.common.options import OptionError, parse
from training.config.datasets import check_batches, read_datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase, Schedule, batches_per_epoch
from training.config.startup_checks import accumulation_steps, known_ranks

logger = logging.getLogger("training.plan")


class PlanOptions(RunConfig):
    csv: Path | None = Field(
        None, description="write every batch as a row of this file, instead of printing the epochs"
    )
    train_images: int | None = Field(
        None, ge=1, description="number of training images in each set; by default that of the manifests"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBatch:
    """One training batch of the plan; ``epoch`` and ``batch`` count from 1."""

    epoch: int
    batch: int
    batches: int
    phase: Phase
    lr: float
    momentum: float | None  # of the schedule's ramps, if it has any


@program("training.plan")
def main(argv: Sequence[str]) -> int:
    options = parse(PlanOptions, argv, prog="training.plan", description=__doc__ or "")
    schedule = options.schedule
    ranks = known_ranks(options.dist, {})
    steps = accumulation_steps(options.dist, ranks or 1)
    gpus = ranks * steps if ranks else options.dist.emulate_gpus or options.schedule.gpus
    images = images_by_set(options)
    check_batches(images, schedule, gpus)
    logger.info("note: %s", shares(options, ranks, steps, gpus))
    if options.csv is None:
        print("\n".join(epoch_lines(schedule, images, gpus)))
    else:
        rows = write_csv(options.csv, schedule, images, gpus)
        of = f"{rows:,} batches of {plural(schedule.epochs, 'epoch')} on {plural(gpus, 'GPU')}"
        logger.info("%s: %s", options.csv, of)  # the file may be standard output
    return 0


def images_by_set(options: PlanOptions) -> dict[str, int]:
    """Training images by set: ``train_images`` if given, else from the manifests."""
    phases = options.schedule.phases
    if options.train_images is not None:
        return dict.fromkeys((phase.data for phase in phases), options.train_images)
    try:
        datasets = read_datasets(options.data.dir, list(dict.fromkeys(f"train_{phase.data}" for phase in phases)))
    except FileNotFoundError as error:
        raise OptionError(str(error), remedy="or give --train_images=1281167") from None
    return {phase.data: datasets.images(phase) for phase in phases}


def shares(options: RunConfig, ranks: int | None, steps: int, gpus: int) -> str:
    """In words, the global batch and who makes it: ``ranks`` processes (None: the GPUs of the machine that trains
    decide), each accumulating ``steps`` batches."""
    emulated = options.dist.emulate_gpus
    parts = [
        f"GPUs of the global batch: {gpus}",
        f"processes: {ranks or 'one for each GPU'}",
        f"batches that each accumulates: {f'{emulated} / processes' if emulated and ranks is None else steps}",
    ]
    if gpus != options.schedule.gpus:
        parts.append(f"GPUs that the learning rates are meant for: {options.schedule.gpus}")
    return "; ".join(parts)


def planned_batches(schedule: Schedule, images: Mapping[str, int], gpus: int) -> Iterator[PlannedBatch]:
    """Every training batch of a run on ``gpus`` GPUs, in order; ``images`` by beton set (``{"160": 1281167}``)."""
    for epoch in range(schedule.epochs):
        phase = schedule.phase(epoch)
        batches = batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus)
        for batch in range(1, batches + 1):
            lr, momentum = schedule.lr(epoch, batch, batches), schedule.momentum(epoch, batch, batches)
            yield PlannedBatch(epoch=epoch + 1, batch=batch, batches=batches, phase=phase, lr=lr, momentum=momentum)


def epoch_lines(schedule: Schedule, images: Mapping[str, int], gpus: int) -> Iterator[str]:
    """A heading and a line for each epoch: its set, size, batch, and the rates and momenta of its first and last
    batch."""
    ramped = bool(schedule.momentum_ramps)
    yield (
        f"{'epoch':>5} {'set':>5} {'px':>4} {'batch/gpu':>9} {'batch':>6} {'lr from':>10} {'lr to':>10} "
        f"{'momentum from     to ' if ramped else ''}{'batches':>7} {'images':>8}  validation"
    )
    for epoch in range(schedule.epochs):
        phase = schedule.phase(epoch)
        global_batch = phase.batch_per_gpu * gpus
        batches = batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus)
        ends = [(epoch, batch, batches) for batch in (1, batches)]
        rates = " ".join(f"{schedule.lr(*end):>10.6f}" for end in ends)
        momenta = "{:>13.4f} {:>6.4f} ".format(*(schedule.momentum(*end) for end in ends)) if ramped else ""
        kind = "rectangles" if phase.rectangular_val else "squares"
        yield (
            f"{epoch + 1:>5} {phase.data:>5} {phase.px:>4} {phase.batch_per_gpu:>9} {global_batch:>6} "
            f"{rates} {momenta}{batches:>7} "
            f"{batches * global_batch:>8}  val_{phase.val_data} {kind}, batch {phase.val_batch}"
        )


def write_csv(path: Path, schedule: Schedule, images: Mapping[str, int], gpus: int) -> int:
    """Write every batch as a row of ``path``, with a column of momentum if the schedule has ramps of it; returns the
    number of rows."""
    columns = ["epoch", "batch", "batches", "px", "batch_per_gpu", "set", "lr"]
    columns += ["momentum"] if schedule.momentum_ramps else []
    rows = 0
    check_output(path, ".csv")
    with partial_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for rows, b in enumerate(planned_batches(schedule, images, gpus), start=1):  # noqa: B007
            row = [b.epoch, b.batch, b.batches, b.phase.px, b.phase.batch_per_gpu, b.phase.data, b.lr, b.momentum]
            writer.writerow(row[: len(columns)])
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
