"""Charts of runs: which columns they show, drawn as one picture or as elements of a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_tools.common.imagenet import TARGET_TOP5
from training.reporting.plotting import LIGHT, PAGE, Palette, figure, style_axes, svg, use_css_colors
from training.reporting.run_folder import PUBLISHED_NAME, Published, RunFolder, published
from training.runlog.epoch_table import EpochRow, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RUNS = len(LIGHT.series)
# The time axis is logarithmic if the longest run takes this many times as long as the shortest.
FAR = 5


Points = tuple[list[float], list[float]]  # x and y


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a chart: ``value`` at the end of each epoch, or ``points`` over the epochs."""

    value: Callable[[EpochRow], float] | None = None
    points: Callable[[RunFolder], Points] | None = None
    dashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """``lines`` of every run against epochs or time; ``behind``: columns of the published run drawn behind them."""

    title: str
    lines: tuple[Line, ...]
    by_time: bool = False
    percent: bool = False
    behind: tuple[str, ...] = ()


def steps(value: Callable[[EpochRow], float]) -> Line:
    """What is the same throughout an epoch, as a step from its beginning to its end."""

    def points(run: RunFolder) -> Points:
        x = [edge for row in run.rows for edge in (row.epoch - 1.0, float(row.epoch))]
        return x, [value(row) for row in run.rows for _ in range(2)]

    return Line(points=points)


def scheduled_lr(run: RunFolder) -> Points:
    """The learning rate over the recorded epochs as the schedule has it for each batch: straight lines, and jumps."""
    first, last = run.rows[0].epoch - 1, run.rows[-1].epoch
    x: list[float] = []
    y: list[float] = []
    for ramp in run.schedule.lr_ramps:
        start, end = max(ramp.start, first), min(ramp.end, last)
        if start < end:
            x += [start, end]
            y += [ramp.at(start, 0, 1), ramp.at(end - 1, 1, 1)]
    return x, y


BOTH = (Line(value=lambda row: row.top5), Line(value=lambda row: row.top1, dashed=True))
ACCURACY = Chart(title="top-5, and top-1 (dashed), %", lines=BOTH, percent=True, behind=("top5", "top1"))
TOP1 = Chart(title="top-1, %", lines=(Line(value=lambda row: row.top1),), percent=True)
LOSSES = (Line(value=lambda row: row.train_loss), Line(value=lambda row: row.val_loss, dashed=True))
STEPS = (Line(value=lambda row: row.speed.step_p50_ms), Line(value=lambda row: row.speed.step_p99_ms, dashed=True))
OTHERS = (
    Chart(title="training loss, and validation loss (dashed)", lines=LOSSES),
    Chart(title="learning rate, as scheduled", lines=(Line(points=scheduled_lr),)),
    Chart(title="px of a training crop", lines=(steps(lambda row: row.px),)),
    Chart(title="global batch", lines=(steps(lambda row: row.global_batch),)),
    Chart(title="images/s, training", lines=(Line(value=lambda row: row.images_per_s),)),
    Chart(title="waiting for images, % of training", lines=(Line(value=lambda row: row.speed.data_wait_percent),)),
    Chart(title="ms a step: median, and slowest in 100 (dashed)", lines=STEPS),
)
CHARTS = (replace(ACCURACY, by_time=True), ACCURACY, *OTHERS)


def charts_of(runs: Sequence[RunFolder]) -> tuple[Chart, ...]:
    """The charts of these runs: without top-5 and the published run if they have too few classes for it."""
    return CHARTS if any(run.by_top5 for run in runs) else (replace(TOP1, by_time=True), TOP1, *OTHERS)


def svg_elements(runs: Sequence[RunFolder]) -> Iterator[tuple[str, str]]:
    """(title, ``<svg>`` in the page's colours) of each chart."""
    behind = published()
    for number, chart in enumerate(charts_of(runs)):
        fig, (axes,) = figure(4.1, 2.75)
        draw(axes, chart, runs, behind, PAGE)
        title = f"{chart.title}, against {axes.get_xlabel()}"
        yield title, use_css_colors(svg(fig, f"chart{number}"))


def png(runs: Sequence[RunFolder]) -> bytes:
    """All charts on one light picture, with a legend."""
    fig, grid = figure(15, 11.2, rows=3, columns=3)
    behind = published()
    charts = charts_of(runs)
    for axes, chart in zip(grid, charts, strict=True):
        draw(axes, chart, runs, behind, LIGHT)
    from matplotlib.lines import Line2D

    legend = {run.name: colour for run, colour in zip(runs, LIGHT.series, strict=False)}
    if any(chart.behind for chart in charts):
        legend[PUBLISHED_NAME] = LIGHT.published
    keys = [Line2D([], [], color=colour, linewidth=2.4) for colour in legend.values()]
    fig.legend(keys, list(legend), loc="outside upper left", ncols=4, frameon=False, fontsize=10, labelcolor=LIGHT.ink)
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def draw(axes: Axes, chart: Chart, runs: Sequence[RunFolder], behind: Published, palette: Palette) -> None:
    """One chart of all runs."""
    unit, an_hour = ("hours", 1.0) if chart.behind else time_unit(max(run.rows[-1].hours for run in runs))
    style_axes(axes, palette, chart.title, unit if chart.by_time else "epochs")
    for column, dashes in zip(chart.behind, ("-", (0, (3, 2))), strict=False):
        x = behind.hours if chart.by_time else behind.epoch
        axes.plot(x, getattr(behind, column), color=palette.published, linestyle=dashes, linewidth=1.3, zorder=1.5)
    if chart.behind:
        axes.axhline(TARGET_TOP5, color=palette.muted, linewidth=0.7, zorder=1.2)
        label = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom", "ha": "right"}
        corner = (1.0, TARGET_TOP5)
        axes.annotate(f"{TARGET_TOP5:g}", corner, (0, 1), fontsize=7.5, color=palette.muted, **label)  # type: ignore[arg-type]
    for number, run in enumerate(runs):
        # Earlier runs are wider, so that they show behind equal ones.
        width = 1.5 + 1.1 * (len(runs) - 1 - number)
        for line in chart.lines:
            points = _points(line, run, an_hour if chart.by_time else None)
            _curve(axes, points, palette.series[number], width, line.dashed)
    axes.set_ylim(0, 101 if chart.percent else 1.03 * axes.get_ylim()[1])
    _x_axis(axes, chart, [run.rows[-1].hours for run in runs], behind)


def _points(line: Line, run: RunFolder, an_hour: float | None) -> Points:
    """The points of ``line`` over the epochs, or over time if ``an_hour``, the units in an hour, is given."""
    if line.points is not None:
        return line.points(run)
    assert line.value is not None
    x = [float(row.epoch) if an_hour is None else row.hours * an_hour for row in run.rows]
    return x, [line.value(row) for row in run.rows]


def _curve(axes: Axes, points: Points, colour: str, width: float, dashed: bool) -> None:
    axes.plot(
        *points,
        color=colour,
        linestyle=(0, (3, 2)) if dashed else "-",
        linewidth=0.8 * width if dashed else width,
        marker="o" if len(points[0]) == 1 else None,
        markersize=4,
    )


def _x_axis(axes: Axes, chart: Chart, hours: list[float], behind: Published) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not chart.by_time:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    spans = [*hours, behind.hours[-1]] if chart.behind else hours
    if max(spans) > FAR * min(spans):
        axes.set_xscale("log")
        axes.set_xlabel(f"{axes.get_xlabel()}, logarithmic")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(left=0)
