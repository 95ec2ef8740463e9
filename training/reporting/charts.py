"""Charts of runs: which columns they show, drawn as one picture or as elements of a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_tools.common.imagenet import TARGET_TOP5
from training.reporting.plotting import LIGHT, SERIES, figure, style_axes, svg
from training.reporting.run_folder import PUBLISHED_NAME, RunFolder, published
from training.reporting.schedule_plot import points
from training.runlog.epoch_table import EpochRow, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RUNS = len(SERIES)
# The time axis is logarithmic if the longest run takes this many times as long as the shortest.
FAR = 5
STYLES = ("-", (0, (3, 2)))  # of the first line of a chart and the second

# x and y of a run: over the epochs or, with the units of time in an hour, over time.
Curve = Callable[[RunFolder, float | None], tuple[list[float], list[float]]]


def at_ends(value: Callable[[EpochRow], float]) -> Curve:
    """A value at the end of each epoch."""
    return lambda run, an_hour: (
        [float(row.epoch) if an_hour is None else row.hours * an_hour for row in run.rows],
        [value(row) for row in run.rows],
    )


def steps(value: Callable[[EpochRow], float]) -> Curve:
    """What is the same throughout an epoch, as a step from its beginning to its end."""
    return lambda run, _: (
        [edge for row in run.rows for edge in (row.epoch - 1.0, float(row.epoch))],
        [value(row) for row in run.rows for _ in range(2)],
    )


def scheduled_lr(run: RunFolder, _: float | None) -> tuple[list[float], list[float]]:
    """The learning rate over the recorded epochs as the schedule has it for each batch, with its jumps."""
    recorded = run.rows[0].epoch - 1, run.rows[-1].epoch
    shown = [point for ramp in run.schedule.lr_ramps for point in points(ramp, *recorded)]
    return [epoch for epoch, _ in shown], [value for _, value in shown]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """``curves`` of every run against epochs or time, the second dashed; ``behind``: columns of the published run drawn
    behind them."""

    title: str
    curves: tuple[Curve, ...]
    by_time: bool = False
    percent: bool = False
    behind: tuple[str, ...] = ()


BOTH = (at_ends(lambda row: row.top5), at_ends(lambda row: row.top1))
ACCURACY = Chart(title="top-5, and top-1 (dashed), %", curves=BOTH, percent=True, behind=("top5", "top1"))
TOP1 = Chart(title="top-1, %", curves=BOTH[1:], percent=True)
LOSSES = (at_ends(lambda row: row.train_loss), at_ends(lambda row: row.val_loss))
STEP_TIMES = (at_ends(lambda row: row.step_p50_ms), at_ends(lambda row: row.step_p99_ms))
OTHERS = (
    Chart(title="training loss, and validation loss (dashed)", curves=LOSSES),
    Chart(title="learning rate, as scheduled", curves=(scheduled_lr,)),
    Chart(title="px of a training crop", curves=(steps(lambda row: row.px),)),
    Chart(title="global batch", curves=(steps(lambda row: row.global_batch),)),
    Chart(title="images/s, training", curves=(at_ends(lambda row: row.images_per_s),)),
    Chart(title="waiting for images, % of training", curves=(at_ends(lambda row: row.data_wait_percent),)),
    Chart(title="ms a step: median, and slowest in 100 (dashed)", curves=STEP_TIMES),
)
CHARTS = (replace(ACCURACY, by_time=True), ACCURACY, *OTHERS)


def charts_of(runs: Sequence[RunFolder]) -> tuple[Chart, ...]:
    """The charts of these runs: without top-5 and the published run if they have too few classes for it."""
    return CHARTS if any(run.by_top5 for run in runs) else (replace(TOP1, by_time=True), TOP1, *OTHERS)


def svg_elements(runs: Sequence[RunFolder]) -> Iterator[tuple[str, str]]:
    """(title, ``<svg>``) of each chart."""
    behind = published()
    for number, chart in enumerate(charts_of(runs)):
        fig, (axes,) = figure(4.1, 2.75)
        draw(axes, chart, runs, behind)
        yield f"{chart.title}, against {axes.get_xlabel()}", svg(fig, f"chart{number}")


def png(runs: Sequence[RunFolder]) -> bytes:
    """All charts on one picture, with a legend."""
    from matplotlib.lines import Line2D

    fig, grid = figure(15, 11.2, rows=3, columns=3)
    behind, charts = published(), charts_of(runs)
    for axes, chart in zip(grid, charts, strict=True):
        draw(axes, chart, runs, behind)
    legend = {run.name: colour for run, colour in zip(runs, SERIES, strict=False)}
    if any(chart.behind for chart in charts):
        legend[PUBLISHED_NAME] = LIGHT["published"]
    keys, ink = [Line2D([], [], color=colour, linewidth=2.4) for colour in legend.values()], LIGHT["ink"]
    shown = fig.legend(
        keys, list(legend), loc="outside upper left", ncols=4, frameon=False, fontsize=10, labelcolor=ink
    )
    for text in shown.get_texts():
        text.set_parse_math(False)  # a run's name may have dollar signs
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def draw(axes: Axes, chart: Chart, runs: Sequence[RunFolder], behind: Mapping[str, list[float]]) -> None:
    """One chart of all runs, before the published curves."""
    unit, an_hour = ("hours", 1.0) if chart.behind else time_unit(max(run.rows[-1].hours for run in runs))
    style_axes(axes, chart.title, unit if chart.by_time else "epochs")
    for column, dashes in zip(chart.behind, STYLES, strict=False):
        x, y = behind["hours" if chart.by_time else "epoch"], behind[column]
        axes.plot(x, y, color=LIGHT["published"], linestyle=dashes, linewidth=1.3, zorder=1.5)
    if chart.behind:
        axes.axhline(TARGET_TOP5, color=LIGHT["muted"], linewidth=0.7, zorder=1.2)
        label = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom", "ha": "right"}
        corner = (1.0, TARGET_TOP5)
        axes.annotate(f"{TARGET_TOP5:g}", corner, (0, 1), fontsize=7.5, color=LIGHT["muted"], **label)  # type: ignore[arg-type]
    for number, (run, colour) in enumerate(zip(runs, SERIES, strict=False)):
        # Earlier runs are wider, so that they show behind equal ones.
        width = 1.5 + 1.1 * (len(runs) - 1 - number)
        for curve, dashes, share in zip(chart.curves, STYLES, (1, 0.8), strict=False):
            x, y = curve(run, an_hour if chart.by_time else None)
            marker = "o" if len(x) == 1 else None
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=share * width, marker=marker, markersize=4)
    axes.set_ylim(0, 101 if chart.percent else 1.03 * axes.get_ylim()[1])
    spans = [run.rows[-1].hours for run in runs] + (behind["hours"][-1:] if chart.behind else [])
    _x_axis(axes, chart.by_time, spans)


def _x_axis(axes: Axes, by_time: bool, spans: list[float]) -> None:
    """Ticks at whole epochs, or the scale of time for these ``spans``."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not by_time:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    elif max(spans) > FAR * min(spans):
        axes.set_xscale("log")
        axes.set_xlabel(f"{axes.get_xlabel()}, logarithmic")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(left=0)
