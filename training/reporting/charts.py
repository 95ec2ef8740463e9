"""Charts of runs: which columns they show, drawn as one picture or as elements of a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_tools.common.imagenet import TARGET_TOP5
from training.reporting.plotting import LIGHT, PAGE, Palette, figure, style_axes, svg, use_css_colors
from training.reporting.run_folder import PUBLISHED_NAME, Published, RunFolder, published
from training.runlog.epoch_table import EpochRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RUNS = len(LIGHT.series)
# The hours axis is logarithmic if the longest run takes this many times as long as the shortest.
FAR = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    value: Callable[[EpochRow], float]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """``lines`` of every run against epochs or hours; ``behind``: columns of the published run drawn behind them."""

    title: str
    lines: tuple[Line, ...]
    by_hours: bool = False
    behind: tuple[str, ...] = ()
    steps: bool = False


ACCURACY = (Line(value=lambda row: row.top5), Line(value=lambda row: row.top1, dashed=True))
STEPS = (Line(value=lambda row: row.speed.step_p50_ms), Line(value=lambda row: row.speed.step_p99_ms, dashed=True))
CHARTS = (
    Chart(title="top-5, and top-1 (dashed), %", lines=ACCURACY, by_hours=True, behind=("top5", "top1")),
    Chart(title="top-5, and top-1 (dashed), %", lines=ACCURACY, behind=("top5", "top1")),
    Chart(title="training loss", lines=(Line(value=lambda row: row.train_loss),)),
    Chart(title="learning rate, at an epoch's end", lines=(Line(value=lambda row: row.lr),)),
    Chart(title="px of a training crop", lines=(Line(value=lambda row: row.px),), steps=True),
    Chart(title="global batch", lines=(Line(value=lambda row: row.global_batch),), steps=True),
    Chart(title="images/s, training", lines=(Line(value=lambda row: row.images_per_s),)),
    Chart(title="waiting for images, % of training", lines=(Line(value=lambda row: row.speed.data_wait_percent),)),
    Chart(
        title="ms a step: median, and slowest in 100 (dashed)",
        lines=STEPS,
    ),
)


def svg_elements(runs: Sequence[RunFolder]) -> Iterator[tuple[str, str]]:
    """(title, ``<svg>`` in the page's colours) of each chart."""
    behind = published()
    for number, chart in enumerate(CHARTS):
        fig, (axes,) = figure(4.1, 2.75)
        draw(axes, chart, runs, behind, PAGE)
        yield f"{chart.title}, against {_x_label(chart)}", use_css_colors(svg(fig, f"chart{number}"))


def png(runs: Sequence[RunFolder]) -> bytes:
    """All charts on one light picture, with a legend."""
    fig, grid = figure(15, 11.2, rows=3, columns=3)
    behind = published()
    for axes, chart in zip(grid, CHARTS, strict=True):
        draw(axes, chart, runs, behind, LIGHT)
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour, linewidth=2.4) for colour in (*LIGHT.series[: len(runs)], LIGHT.published)]
    names = [*(run.name for run in runs), PUBLISHED_NAME]
    fig.legend(keys, names, loc="outside upper left", ncols=4, frameon=False, fontsize=10, labelcolor=LIGHT.ink)
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def draw(axes: Axes, chart: Chart, runs: Sequence[RunFolder], behind: Published, palette: Palette) -> None:
    """One chart of all runs."""
    style_axes(axes, palette, chart.title, _x_label(chart))
    for column, dashes in zip(chart.behind, ("-", (0, (3, 2))), strict=False):
        x = behind.hours if chart.by_hours else behind.epoch
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
            _curve(axes, chart, line, run.rows, palette.series[number], width)
    axes.set_ylim(0, 101 if chart.behind else 1.03 * axes.get_ylim()[1])
    _x_axis(axes, chart, runs, behind)


def _curve(axes: Axes, chart: Chart, line: Line, rows: Sequence[EpochRow], colour: str, width: float) -> None:
    x = [row.hours if chart.by_hours else row.epoch for row in rows]
    style = (0, (3, 2)) if line.dashed else "-"
    axes.plot(
        x,
        [line.value(row) for row in rows],
        color=colour,
        linestyle=style,
        linewidth=0.8 * width if line.dashed else width,
        marker="o" if len(rows) == 1 else None,
        markersize=4,
        drawstyle="steps-mid" if chart.steps else "default",
    )


def _x_label(chart: Chart) -> str:
    return "hours" if chart.by_hours else "epochs"


def _x_axis(axes: Axes, chart: Chart, runs: Sequence[RunFolder], behind: Published) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not chart.by_hours:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    spans = [run.rows[-1].hours for run in runs] + [behind.hours[-1]]
    if max(spans) > FAR * min(spans):
        axes.set_xscale("log")
        axes.set_xlabel("hours, logarithmic")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(left=0)
