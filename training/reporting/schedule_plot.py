"""A schedule as a picture: px, global batch and learning rate over its epochs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from data_tools.common.text import plural
from training.config.schedule import Schedule
from training.reporting.plotting import LIGHT, Palette, figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(schedule: Schedule, gpus: int, palette: Palette = LIGHT) -> Figure:
    """``schedule`` on ``gpus`` GPUs over the epochs that are complete. Dotted: where the rate jumps."""
    fig, (px, batch, lr) = figure(9.6, 2.4, columns=3)
    _steps(px, palette, schedule, [phase.px for phase in schedule.phases], "px")
    batches = [phase.batch_per_gpu * gpus for phase in schedule.phases]
    _steps(batch, palette, schedule, batches, f"global batch, on {plural(gpus, 'GPU')}")
    for ramp in schedule.ramps:
        ends = [ramp.lr_from, ramp.lr_to]
        lr.plot([ramp.start, ramp.end], ends, color=palette.series[0], linewidth=1.8, clip_on=False)
    for a, b in pairwise(schedule.ramps):
        lr.plot([a.end, b.start], [a.lr_to, b.lr_from], color=palette.series[0], linewidth=0.7, linestyle=(0, (2, 2)))
    _finish(lr, palette, schedule, "learning rate")
    return fig


def _steps(axes: Axes, palette: Palette, schedule: Schedule, values: list[int], title: str) -> None:
    """A value for each phase, written above each step that is long enough."""
    edges = [phase.start for phase in schedule.phases]
    axes.stairs(values, [*edges, schedule.epochs], color=palette.series[0], linewidth=1.8, baseline=None)
    _finish(axes, palette, schedule, title)
    steps = [(edges[i], value) for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    for (start, value), (end, _) in pairwise([*steps, (schedule.epochs, 0)]):
        if end - start >= 0.09 * schedule.epochs:
            where = ((start + end) / 2, value)
            axes.annotate(
                str(value), where, (0, 2), textcoords="offset points", ha="center", fontsize=8, color=palette.ink
            )


def _finish(axes: Axes, palette: Palette, schedule: Schedule, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    style_axes(axes, palette, title, "epochs")
    axes.set_xlim(0, schedule.epochs)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
