"""A run as its folder records it, and a summary of it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_tools.common.console import plural
from data_tools.common.errors import printable
from data_tools.common.imagenet import TARGET_TOP5
from data_tools.common.options import OptionError, mistakes_in
from training.config.schedule import Schedule
from training.runlog.csv_log import read_table
from training.runlog.epoch_table import (
    CONFIG,
    EPOCHS,
    EpochRow,
    EpochTable,
    duration,
    format_number,
    read_epochs,
    tells_top5,
    time_unit,
    validation_images,
)
from training.runlog.sessions import Session, hardware, read_sessions

PUBLISHED = Path(__file__).with_name("titan8_epochs.csv")
PUBLISHED_NAME = "titan8 as published: 8 Titan RTX, 2019"
PHASE_OPTIONS = {"schedule.phases", "schedule.imagenet18"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """A run folder; ``rows`` and ``sessions`` are not empty, ``config`` is by section, and ``schedule`` is parsed from
    it."""

    name: str
    rows: Sequence[EpochRow]
    sessions: Sequence[Session]
    config: dict[str, dict[str, Any]]
    schedule: Schedule

    @property
    def by_top5(self) -> bool:
        """Whether top-5 says anything: among a few classes, five guesses are nearly always right."""
        return tells_top5(self.sessions[-1].classes)

    @property
    def table(self) -> EpochTable:
        unit, an_hour = time_unit(self.rows[-1].hours)
        return EpochTable(images=validation_images(self.sessions[-1].images), unit=unit, an_hour=an_hour)

    def reached(self) -> EpochRow | None:
        """The first epoch at or above 93 % top-5, where that says anything."""
        return next((row for row in self.rows if self.by_top5 and row.top5 >= TARGET_TOP5), None)

    def best(self, column: str) -> EpochRow:
        """The first epoch in which ``column`` is highest."""
        return max(self.rows, key=lambda row: float(getattr(row, column)))

    def gpu_hours(self, hours: float) -> float:
        """GPU-hours of the first ``hours``, each session by its own GPUs."""
        starts = [min(session.from_hours, hours) for session in self.sessions]
        spans = [end - start for start, end in pairwise([*starts, hours])]
        return sum(span * len(session.gpus) for span, session in zip(spans, self.sessions, strict=True))

    def options(self) -> dict[str, str]:
        """Every option of the configuration but the phases: ``section.key`` and its value as text."""
        flat = {f"{section}.{key}": value for section, keys in self.config.items() for key, value in keys.items()}
        return {
            key: "none" if value is None else value if isinstance(value, str) else json.dumps(value)
            for key, value in flat.items()
            if key not in PHASE_OPTIONS
        }


def differing_keys(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all of ``mappings``, in order."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [key for key in keys if any(each.get(key) != mappings[0].get(key) for each in mappings)]


def read_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs of ``folders``, each with a unique name. OptionError for a folder that is not a run's."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise OptionError("the same run folder is given twice")
    return [_run(folder, printable(name)) for folder, name in zip(folders, names, strict=True)]


def _run(folder: Path, name: str) -> RunFolder:
    if not folder.is_dir():
        raise OptionError("no such folder", where=folder, remedy="give a run folder, such as runs/titan8")
    if not (rows := read_epochs(folder)):
        what = "no epoch is complete yet" if (folder / EPOCHS).is_file() else f"no {EPOCHS} here; give a run folder"
        raise OptionError(what, where=folder)
    config, schedule = read_config(folder)
    return RunFolder(name=name, rows=rows, sessions=read_sessions(folder), config=config, schedule=schedule)


def read_config(folder: Path) -> tuple[dict[str, dict[str, Any]], Schedule]:
    """The configuration of a run, by section, and its schedule. OptionError if it is missing or damaged."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(config, dict) and all(isinstance(section, dict) for section in config.values())):
            raise ValueError("not sections of options")
        return config, Schedule(**config["schedule"])
    except FileNotFoundError:
        raise OptionError("missing", where=path, remedy="give a run folder") from None
    except (ValueError, TypeError, KeyError) as error:
        why = mistakes_in(Schedule, error)[0] if isinstance(error, ValidationError) else error
        raise OptionError(f"damaged, or of another version ({why})", where=path, remedy="restore it") from None


def published() -> dict[str, list[float]]:
    """The published titan8 run: its epochs, hours, top-1 and top-5."""
    columns = ("epoch", "hours", "top1", "top5")
    rows = read_table(PUBLISHED, columns)
    return {column: [row[column] for row in rows] for column in columns}


def run_summary(run: RunFolder, price: float | None) -> Iterator[tuple[str, str]]:
    """A run as (measure, value) pairs, the most important first."""
    last, reached, score = run.rows[-1], run.reached(), run.table.score
    columns = {"top5": "top-5", "top1": "top-1"} if run.by_top5 else {"top1": "top-1"}
    if run.by_top5:
        where = f"{duration(reached.hours)}, after epoch {reached.epoch}" if reached is not None else "not reached"
        yield f"{TARGET_TOP5:g} % top-5", where
    for column, label in columns.items():
        best = run.best(column)
        yield f"best {label}", f"{score(getattr(best, column))} %, epoch {best.epoch}"
    if not math.isnan(last.ema_top1):
        scores = [f"{score(getattr(last, f'ema_{column}'))} % {label}" for column, label in columns.items()]
        yield "averaged weights, last", ", ".join(scores)
    losses = format_number(last.train_loss, ".4f"), format_number(last.val_loss, ".4f")
    yield "loss, last", f"{losses[0]} in training, {losses[1]} in validation"
    yield "done", f"{last.epoch} of {plural(run.schedule.epochs, 'epoch')}, {duration(last.hours)}"
    yield from _cost(run, reached, price)
    yield from _environment(run)


def _cost(run: RunFolder, reached: EpochRow | None, price: float | None) -> Iterator[tuple[str, str]]:
    total = run.gpu_hours(run.rows[-1].hours)
    if not total:
        if price is not None:
            yield "cost", "unknown: no GPU was recorded"
        return
    unit, an_hour = time_unit(total)
    yield f"GPU-{unit}", f"{total * an_hour:.4f}"
    if price is None:
        return
    to_target = f"{run.gpu_hours(reached.hours) * price:,.2f} to {TARGET_TOP5:g} %, " if reached is not None else ""
    yield "cost", f"{to_target}{total * price:,.2f} in all, at {price:g} per GPU-hour"


def _environment(run: RunFolder) -> Iterator[tuple[str, str]]:
    def joined(values: Iterator[str]) -> str:
        return "; then ".join(dict.fromkeys(values))

    latest, started = run.sessions[-1], [f"{session.started:%Y-%m-%d %H:%M} UTC" for session in run.sessions]
    yield "hardware", joined(hardware(session) for session in run.sessions)
    yield "started", started[0] + (f"; the last of {len(started)} times {started[-1]}" if started[1:] else "")
    yield "command", joined(session.command for session in run.sessions)
    yield "commit", joined(session.commit or "not a checkout" for session in run.sessions)
    yield "precision", latest.precision
    yield "data", f"{plural(latest.classes, 'class')}; " + ", ".join(f"{k} {v:,}" for k, v in latest.images.items())
    yield "versions", ", ".join([*(f"{name} {number}" for name, number in latest.versions.items()), latest.decoder])
    yield "system", latest.system
