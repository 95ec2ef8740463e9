"""Print the schedule of a run, a row per epoch, or write it as CSV, a row per batch."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.files import partial_file
from data_tools.common.text import plural
from training.config.datasets import check_batches, images_of
from training.config.preflight import accumulation_steps, known_ranks
from training.config.run_config import RunConfig
from training.config.schedule import Phase, Schedule, batches_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One training batch of the plan; ``epoch`` and ``batch`` count from 1."""

    epoch: int
    batch: int
    batches: int
    phase: Phase
    lr: float
    momentum: float | None  # of the schedule's ramps, if it has any


def plan(schedule: Schedule, images: Mapping[str, int], gpus: int) -> Iterator[Batch]:
    """Every training batch of a run on ``gpus`` GPUs, in order; ``images`` by beton set (``{"160": 1281167}``)."""
    for epoch in range(schedule.epochs):
        phase = schedule.phase(epoch)
        batches = batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus)
        for batch in range(1, batches + 1):
            yield _batch(schedule, epoch, batch, batches)


def _batch(schedule: Schedule, epoch: int, batch: int, batches: int) -> Batch:
    """Batch ``batch`` (from 1) of ``batches`` in ``epoch`` (from 0)."""
    lr, momentum = schedule.lr(epoch, batch, batches), schedule.momentum(epoch, batch, batches)
    return Batch(epoch=epoch + 1, batch=batch, batches=batches, phase=schedule.phase(epoch), lr=lr, momentum=momentum)


def table(schedule: Schedule, images: Mapping[str, int], gpus: int) -> Iterator[str]:
    """A heading and a line for each epoch: its set, size, batch, and the rates and momenta of its first and last
    batch."""
    ramped = bool(schedule.momentum_ramps)
    heading = f"{'momentum from':>13} {'to':>6} " if ramped else ""
    yield (
        f"{'epoch':>5} {'set':>5} {'px':>4} {'batch/gpu':>9} {'batch':>6} {'lr from':>10} {'lr to':>10} {heading}"
        f"{'batches':>7} {'images':>8}  validation"
    )
    for epoch in range(schedule.epochs):
        phase = schedule.phase(epoch)
        global_batch = phase.batch_per_gpu * gpus
        batches = batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus)
        first, last = (_batch(schedule, epoch, batch, batches) for batch in (1, batches))
        kind = "rectangles" if phase.rectangular_val else "squares"
        momenta = f"{first.momentum:>13.4f} {last.momentum:>6.4f} " if ramped else ""
        yield (
            f"{epoch + 1:>5} {phase.data:>5} {phase.px:>4} {phase.batch_per_gpu:>9} {global_batch:>6} "
            f"{first.lr:>10.6f} {last.lr:>10.6f} {momenta}{batches:>7} "
            f"{batches * global_batch:>8}  val_{phase.val_data} {kind}, batch {phase.val_batch}"
        )


def write_csv(path: Path, schedule: Schedule, images: Mapping[str, int], gpus: int) -> int:
    """Write every batch as a row of ``path``, with a column of momentum if the schedule has ramps of it; returns the
    number of rows."""
    rows, ramped = 0, bool(schedule.momentum_ramps)
    with partial_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "batch", "batches", "px", "batch_per_gpu", "set", "lr", *["momentum"][:ramped]))
        for b in plan(schedule, images, gpus):
            row = (b.epoch, b.batch, b.batches, b.phase.px, b.phase.batch_per_gpu, b.phase.data, repr(b.lr))
            writer.writerow((*row, *[repr(b.momentum)][:ramped]))
            rows += 1
    return rows


def shares(config: RunConfig, ranks: int | None, steps: int, gpus: int) -> str:
    """In words, the global batch and who makes it: ``ranks`` processes (None: the GPUs of the machine that trains
    decide), each accumulating ``steps`` batches."""
    emulated = config.dist.emulate_gpus
    parts = [
        f"GPUs of the global batch: {gpus}",
        f"processes: {ranks or 'one for each GPU'}",
        f"batches that each accumulates: {f'{emulated} / processes' if emulated and ranks is None else steps}",
    ]
    if gpus != config.schedule.gpus:
        parts.append(f"GPUs that the learning rates are meant for: {config.schedule.gpus}")
    return "; ".join(parts)


def show(config: RunConfig) -> None:
    """Print the table for ``run.plan``, write the CSV for ``run.plan_csv``."""
    schedule = config.schedule
    ranks = known_ranks(config.dist, os.environ)
    steps = accumulation_steps(config.dist, ranks or 1)
    gpus = ranks * steps if ranks else config.dist.emulate_gpus or config.schedule.gpus
    images = images_of(config, schedule)
    check_batches(images, schedule, gpus)
    print(f"note: {shares(config, ranks, steps, gpus)}", file=sys.stderr)
    if config.run.plan_csv:
        rows = write_csv(config.run.plan_csv, schedule, images, gpus)
        print(f"{config.run.plan_csv}: {rows:,} batches of {plural(schedule.epochs, 'epoch')} on {plural(gpus, 'GPU')}")
    if config.run.plan:
        print("\n".join(table(schedule, images, gpus)))
