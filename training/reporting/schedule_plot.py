"""A schedule as a picture, px, global batch, learning rate and momentum over its epochs, and as a table of phases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from data_tools.common.console import plural
from training.config.schedule import Phase, Ramp, Schedule
from training.reporting.plotting import LIGHT, SERIES, figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def phase_cells(schedule: Schedule) -> list[dict[str, str]]:
    """For each phase, its cells by column; with momentum if the schedule has ramps of it."""
    table = []
    for phase in schedule.phases:
        kind = "rectangles" if phase.rectangular_val else "squares"
        resized = f" (resized to {phase.val_resize})" if phase.val_resize else ""
        cells = {
            "epochs": phase.span,
            "px": f"{phase.px}",
            "batch per GPU": f"{phase.batch_per_gpu}",
            "set": phase.data,
            "least crop": f"{phase.min_scale:g}",
            "validation": f"{kind} of {phase.val_px} px{resized} from {phase.val_data}",
            "learning rate": _values(schedule.lr_ramps, phase),
        }
        if schedule.momentum_ramps:
            cells["momentum"] = _values(schedule.momentum_ramps, phase)
        table.append(cells)
    return table


def _values(ramps: Sequence[Ramp], phase: Phase) -> str:
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


def plot(schedule: Schedule, gpus: int) -> Figure:
    """``schedule`` on ``gpus`` GPUs over the epochs that are complete. Dotted: where the rate jumps.

    Momentum has an axis of its own if the schedule has ramps of it.
    """
    fig, (px, batch, lr, *more) = figure(9.6, 2.4, columns=4 if schedule.momentum_ramps else 3)
    _steps(px, schedule, [phase.px for phase in schedule.phases], "px")
    batches = [phase.batch_per_gpu * gpus for phase in schedule.phases]
    _steps(batch, schedule, batches, f"global batch, on {plural(gpus, 'GPU')}")
    _ramps(lr, schedule, schedule.lr_ramps, "learning rate")
    for momentum in more:
        _ramps(momentum, schedule, schedule.momentum_ramps, "momentum")
    return fig


def points(ramp: Ramp, first: float, last: float) -> list[tuple[float, float]]:
    """Epochs and values of ``ramp`` from epoch ``first`` to ``last``, as far as it has them: of a line its ends, of a
    curve 33."""
    start, end = max(ramp.start, first), min(ramp.end, last)
    count = 1 if ramp.shape == "linear" else 32
    epochs = [start + (end - start) * part / count for part in range(count + 1)]
    return [(epoch, ramp.at(0, epoch, 1)) for epoch in epochs] if start < end else []


def _ramps(axes: Axes, schedule: Schedule, ramps: Sequence[Ramp], title: str) -> None:
    lines = []
    for ramp in ramps:
        lines.append(points(ramp, ramp.start, ramp.end))
        axes.plot(*zip(*lines[-1], strict=True), color=SERIES[0], linewidth=1.8, clip_on=False)
    for before, after in pairwise(lines):
        jump = zip(before[-1], after[0], strict=True)
        axes.plot(*jump, color=SERIES[0], linewidth=0.7, linestyle=(0, (2, 2)))
    _finish(axes, schedule, title)


def _steps(axes: Axes, schedule: Schedule, values: list[int], title: str) -> None:
    """A value for each phase, written above each step that is long enough."""
    edges = [phase.start for phase in schedule.phases]
    axes.stairs(values, [*edges, schedule.epochs], color=SERIES[0], linewidth=1.8, baseline=None)
    _finish(axes, schedule, title)
    steps = [(edges[i], value) for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    for (start, value), (end, _) in pairwise([*steps, (schedule.epochs, 0)]):
        if end - start >= 0.09 * schedule.epochs:
            where, above = ((start + end) / 2, value), {"textcoords": "offset points", "ha": "center"}
            axes.annotate(str(value), where, (0, 2), fontsize=8, color=LIGHT["ink"], **above)  # type: ignore[arg-type]


def _finish(axes: Axes, schedule: Schedule, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    style_axes(axes, title, "epochs")
    axes.set_xlim(0, schedule.epochs)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
