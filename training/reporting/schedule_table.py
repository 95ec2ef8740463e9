"""A schedule as a table, a row per phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.config.schedule import Phase, Ramp, Schedule

COLUMNS: dict[str, Callable[[Schedule, Phase, int], str]] = {
    "epochs": lambda _, phase, __: epochs(phase),
    "px": lambda _, phase, __: f"{phase.px}",
    "batch per GPU": lambda _, phase, __: f"{phase.batch_per_gpu}",
    "global batch": lambda _, phase, gpus: f"{phase.batch_per_gpu * gpus:,}",
    "set": lambda _, phase, __: phase.data,
    "least crop": lambda _, phase, __: f"{phase.min_scale:g}",
    "validation": lambda _, phase, __: (
        f"{'rectangles' if phase.rectangular_val else 'squares'} of {phase.val_px} px"
        f"{f' (resized to {phase.val_resize})' if phase.val_resize else ''} from {phase.val_data}"
    ),
    "learning rate": lambda schedule, phase, _: values(schedule.lr_ramps, phase),
    "momentum": lambda schedule, phase, _: values(schedule.momentum_ramps, phase),
}
NUMBERS = {"px", "batch per GPU", "global batch", "least crop"}  # columns to be aligned on the right


def columns(schedule: Schedule) -> list[str]:
    """All columns; that of momentum if the schedule has ramps of it."""
    return [name for name in COLUMNS if name != "momentum" or schedule.momentum_ramps]


def rows(schedule: Schedule, gpus: int, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The cells of ``columns`` for each phase on ``gpus`` GPUs."""
    return [tuple(COLUMNS[name](schedule, phase, gpus) for name in columns) for phase in schedule.phases]


def epochs(phase: Phase) -> str:
    """The phase's epochs, counted from 1."""
    return f"{phase.end}" if phase.end == phase.start + 1 else f"{phase.start + 1}–{phase.end}"


def values(ramps: Sequence[Ramp], phase: Phase) -> str:
    """Learning rates or momenta within a phase, from change to change."""
    parts = []
    for ramp in ramps:
        start, end = max(ramp.start, phase.start), min(ramp.end, phase.end)
        if start < end:
            # Batch 0 is just before the first batch of an epoch; the last batch before `end` has the end value.
            low, high = ramp.at(start, 0, 1), ramp.at(end - 1, 1, 1)
            shape = "" if ramp.shape == "linear" else f" ({ramp.shape})"
            parts.append(f"{low:.4g}" if low == high else f"{low:.4g} → {high:.4g}{shape}")
    return ", ".join(dict.fromkeys(parts))
