"""The table of a whole run: what training.estimate predicts, and what the run folder and the logs say."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import dawn_tsv
from data_tools.common.options import parse
from data_tools.common.runtime import let_waiting_threads_sleep
from training.config.schedule import Phase
from training.estimate import EstimateOptions, estimated_times
from training.reporting.run_folder import RunFolder, read_runs, run_summary
from training.runlog.epoch_table import EPOCHS

READY = re.compile(r"epochs? ([\d-]+), \d+ px: ready for the first step after ([\d.]+) s")
QUANTITIES = {
    "images_per_s": "images/s",
    "validation_s": "validation, s",
    "first_step_s": "until the first step, s",
    "epoch_end_s": "end of an epoch (checkpoint), s",
    "seconds": "the whole phase, s",
}


def predict(recipe: Path, card: str | None, train: int, val: int, gpus: int) -> list[dict[str, float]]:
    """What training.estimate says about each phase on one card that emulates ``gpus``, or measures if ``card`` is
    None."""
    let_waiting_threads_sleep(os.environ)  # before torch is loaded, as in every program
    how = "--measure=true" if card is None else f"--gpu={card}"
    counts = [f"--train_images={train}", f"--val_images={val}", "--gpus=1", f"--dist.emulate_gpus={gpus}"]
    options = parse(EstimateOptions, ["--config-file", str(recipe), *counts, how], prog="training.estimate")
    _, times = estimated_times(options, options.site)
    predicted = []
    for each in times:
        training = each.last.seconds * each.batches
        an_epoch = (each.seconds - each.start) / len(each.epochs)
        predicted.append(
            {
                "images_per_s": each.images_per_s_per_gpu,
                "validation_s": each.validation,
                "first_step_s": each.start,
                "epoch_end_s": an_epoch - training - each.validation,
                "seconds": each.seconds,
            }
        )
    return predicted


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A phase: ``figures`` as they are predicted, None if the run says nothing about it."""

    phase: Phase
    figures: Mapping[str, float | None]
    data_wait_percent: float
    gpu_memory_gib: float
    host_memory_gib: float
    top1: float


def measured(run: RunFolder, folder: Path, log: str, memory: Mapping[str, float]) -> Iterator[Measured]:
    """The phases of ``run`` whose epochs are complete; ``memory`` of the process in each epoch, in GiB."""
    ends = [*dawn_tsv.read(folder)[dawn_tsv.EVAL].values()]  # when each epoch was validated, and its seconds
    hours = [0.0, *(row.hours for row in run.rows)]
    # Between the ends of two epochs, what is not on the clock of training and validation; index 0: the second epoch.
    off = [ends[i][0] - ends[i - 1][0] - 3600 * (hours[i + 1] - hours[i]) for i in range(1, len(ends))]
    begun = {session.from_epoch for session in run.sessions}  # epochs, from 0, in which the run was started
    ready: dict[str, float] = {}
    for span, seconds in READY.findall(log):
        ready.setdefault(span, float(seconds))
    for phase in (phase for phase in run.schedule.phases if phase.end <= len(ends)):
        epochs, rows = range(phase.start, phase.end), run.rows[phase.start : phase.end]
        whole = [e for e in epochs if e not in begun and e > phase.start]
        end_of_epoch = statistics.median(off[e - 1] for e in whole) if whole else None
        first, clock = ready.get(phase.span), 3600 * (hours[phase.end] - hours[phase.start])
        yield Measured(
            phase=phase,
            figures={
                "images_per_s": statistics.median(row.images_per_s for row in rows),
                "validation_s": statistics.median(ends[epoch][1] for epoch in epochs),
                "first_step_s": first,
                "epoch_end_s": end_of_epoch,
                "seconds": clock + (first or 0.0) + len(epochs) * (end_of_epoch or 0.0),
            },
            data_wait_percent=statistics.median(row.data_wait_percent for row in rows),
            gpu_memory_gib=max(row.gpu_memory_gib for row in rows),
            host_memory_gib=max(memory.get(str(epoch + 1), 0.0) for epoch in epochs),
            top1=rows[-1].top1,
        )


def warnings(work: Path) -> list[str]:
    """Lines of the logs that warn of something, each once, with the log's name."""
    found = [
        f"{log.name}: {line.strip()}"
        for log in sorted(work.glob("*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if re.search(r"warning", line, re.IGNORECASE)
    ]
    return list(dict.fromkeys(found))


def table(record: Mapping[str, Any], recipe: str, work: Path) -> Iterator[str]:
    """Lines of Markdown: what is known so far; the rest is not run."""
    folder, trained = work / recipe, record.get(f"train {recipe}")
    if trained is None or not (folder / EPOCHS).is_file():
        yield "training: not run"
    else:
        run = read_runs([folder])[0]
        log = (work / f"train_{recipe}.log").read_text()
        yield from phase_tables(
            record.get(f"predict {recipe}", []), [*measured(run, folder, log, trained["memory_gib"])]
        )
        wall, clock = sum(each["seconds"] for each in trained["starts"]), 3600 * run.rows[-1].hours
        yield (
            f"\n{len(trained['starts'])} starts, {wall:.0f} s; outside of training and validation "
            f"{100 * (1 - clock / wall):.1f} %"
        )
        yield from ("", *(f"- {name}: {value}" for name, value in run_summary(run, None)))
    yield "\n| part | result |\n|---|---|"
    yield from (f"| {name} | {text} |" for name, text in results(record, recipe))
    found = warnings(work)
    yield f"\nWarnings: {'none' if not found else len(found)}"
    yield from (f"- {line}" for line in found)


def phase_tables(predicted: list[dict[str, float]], phases: list[Measured]) -> Iterator[str]:
    """Predicted against measured, then what is only measured."""
    yield "| epochs | px | | predicted | measured | difference |\n|---|---:|---|---:|---:|---:|"
    for each, expected in zip(phases, predicted, strict=False):
        for key, name in QUANTITIES.items():
            guess, value = expected[key], each.figures[key]
            shown = ["" if number is None else f"{number:.1f}" for number in (guess, value)]
            difference = f"{100 * (value / guess - 1):+.1f} %" if guess and value else ""
            yield f"| {each.phase.span} | {each.phase.px} | {name} | {' | '.join(shown)} | {difference} |"
    yield "\n| epochs | px | waiting for images, % | GPU memory, GiB | host memory, GiB | top-1 at its end |"
    yield "|---|---:|---:|---:|---:|---:|"
    for each in phases:
        gpu = f"{each.gpu_memory_gib:.1f}" if each.gpu_memory_gib else "no GPU"
        cells = (each.phase.span, each.phase.px, f"{each.data_wait_percent:.2f}", gpu, f"{each.host_memory_gib:.1f}")
        yield f"| {' | '.join(map(str, cells))} | {each.top1:.2f} |"


def results(record: Mapping[str, Any], recipe: str) -> Iterator[tuple[str, str]]:
    """What each part came to."""
    for name in ("betons", "small"):
        for verb in ("generate", "convert"):
            yield f"{verb} {name}", _done(record.get(f"{verb} {name}"))
    for name in (recipe, f"{recipe}_undisturbed", f"{recipe}_continued"):
        starts = record.get(f"train {name}", {}).get("starts", [])
        ended = "complete" if starts and starts[-1]["exit"] == 0 else "not complete" if starts else "not run"
        stops = ", ".join(f"{each['end'] or 'elsewhere'}" for each in starts[:-1])
        yield f"train {name}", f"{ended}{f'; {stops}' if stops else ''}"
    for verb in ("validate", "torchvision"):
        entry = record.get(f"{verb} {recipe}")
        scores = entry["said"] if entry else {}
        text = f"top-1 {scores['top1']:.4f} %, top-5 {scores['top5']:.4f} %" if scores else "not run"
        yield ("rectangles, training.evaluate" if verb == "validate" else "rectangles, torchvision's network"), text
    yield "export", _done(record.get(f"export {recipe}"))
    compared = record.get(f"compare {recipe}")
    yield "the continued run and the undisturbed one", compared["said"] if compared else "not run"


def _done(entry: Mapping[str, Any] | None) -> str:
    return "not run" if entry is None else f"{entry['seconds']} s"
