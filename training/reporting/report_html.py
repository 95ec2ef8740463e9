"""The report of runs as one HTML file that needs nothing else: light and dark, wide and narrow."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from data_tools.common.imagenet import IMAGENET_CLASSES, TARGET_TOP5
from training.reporting import plotting, run_sample, schedule_plot
from training.reporting.charts import charts_of, svg_elements
from training.reporting.run_folder import PUBLISHED_NAME, RunFolder, differing_keys, run_summary
from training.runlog.epoch_table import EpochRow, format_number

STYLE = Path(__file__).with_name("report.css")


def page(runs: Sequence[RunFolder], price: float | None, samples: Sequence[run_sample.RunSample] = ()) -> str:
    """The report of ``runs``, and of ``samples``, which may have more; ``price`` is that of a GPU-hour."""
    title = f"Training report: {', '.join(run.name for run in runs)}"
    style = STYLE.read_text(encoding="utf-8")
    for name, palette in (("LIGHT", plotting.LIGHT), ("DARK", plotting.DARK)):
        style = style.replace(name, plotting.variables(palette))
    body = [
        f"<h1>{escape(title)}</h1>",
        "<p>Times are those of training and validation; preparing a phase does not count.</p>",
        *_summaries(runs, price),
        *_samples(samples),
        *_charts(runs),
        *_differences(runs),
        *_tables(runs),
        *_configurations(runs),
    ]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def _tone(number: int) -> str:
    return f'style="--tone: var(--series-{number})"'


def _summaries(runs: Sequence[RunFolder], price: float | None) -> Iterator[str]:
    yield '<h2>Summary</h2>\n<div class="grid">'
    for number, run in enumerate(runs):
        yield f'<section class="card" {_tone(number)}><h3>{escape(run.name)}</h3>'
        yield _pairs(run_summary(run, price)) + "</section>"
    yield "</div>"


def _samples(samples: Sequence[run_sample.RunSample]) -> Iterator[str]:
    for sample in samples:
        yield f'<h2>{sample.title}</h2>\n<section class="card">{_pairs(run_sample.sample_summary(sample))}</section>'
        yield f"<p>{escape(', '.join(run.name for run in sample.runs))}.</p>"


def _pairs(pairs: Iterable[tuple[str, str]], kind: str = "") -> str:
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="{kind}">{entries}</dl>' if kind else f"<dl>{entries}</dl>"


def _charts(runs: Sequence[RunFolder]) -> Iterator[str]:
    yield '<h2>Curves</h2>\n<ul class="legend">'
    for number, run in enumerate(runs):
        yield f"<li {_tone(number)}>{escape(run.name)}</li>"
    with_published = any(chart.behind for chart in charts_of(runs))
    yield f'<li style="--tone: var(--published)">{escape(PUBLISHED_NAME)}</li></ul>' if with_published else "</ul>"
    yield (_warning_of_other_classes(runs) if with_published else "") + '<div class="grid">'
    for title, element in svg_elements(runs):
        labelled = element.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
        yield f'<figure class="card">{labelled}</figure>'
    yield "</div>"


def _warning_of_other_classes(runs: Sequence[RunFolder]) -> str:
    """A warning, since accuracies over other classes cannot be compared with ImageNet's."""
    counts = {run.name: run.sessions[-1].classes for run in runs}
    others = ", ".join(f"{name} has {count:,}" for name, count in counts.items() if count != IMAGENET_CLASSES)
    return f"<p>The published run is over {IMAGENET_CLASSES:,} classes; {escape(others)}.</p>\n" if others else ""


def _differences(runs: Sequence[RunFolder]) -> Iterator[str]:
    by_run = {run.name: run.options() for run in runs}
    if differing := differing_keys([*by_run.values()]):
        values = ["; ".join(f"{name}: {own.get(key, 'n/a')}" for name, own in by_run.items()) for key in differing]
        yield '<h2>Options that differ</h2>\n<section class="card">'
        yield _pairs(zip(differing, values, strict=True)) + "</section>"
    if len({repr(run.schedule) for run in runs}) > 1:
        yield "<h2>Phases that differ</h2>"
        columns, tables = _phases(runs)
        shared = set.intersection(*map(set, tables))
        for number, (run, phases) in enumerate(zip(runs, tables, strict=True)):
            table = _table(columns, phases, marked=[cells not in shared for cells in phases])
            yield f'<section class="card" {_tone(number)}><h3>{escape(run.name)}</h3>{table}</section>'
        yield "<p>Bold: not in all of them.</p>"


def _phases(runs: Sequence[RunFolder]) -> tuple[list[str], list[list[tuple[str, ...]]]]:
    """Columns, and the cells of each run's phases."""
    tables = [schedule_plot.phase_cells(run.schedule) for run in runs]
    columns = list(dict.fromkeys(name for table in tables for name in table[0]))
    return columns, [[tuple(cells.get(name, "") for name in columns) for cells in table] for table in tables]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool]) -> str:
    """A table that scrolls where it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join(
        f"<tr{' class=marked' if bold else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells, bold in zip(rows, marked, strict=True)
    )
    return f'<div class="wide" tabindex="0"><table><tr>{head}</tr>{body}</table></div>'


def _epochs(run: RunFolder) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a run's epochs; top-5 only where it says something."""
    table = run.table
    columns: dict[str, Callable[[EpochRow], str]] = {
        "epoch": lambda row: f"{row.epoch}",
        table.unit: table.time,
        "top-1": lambda row: table.score(row.top1),
        "top-5": lambda row: table.score(row.top5),
        "loss": lambda row: format_number(row.train_loss, ".4f"),
        "val. loss": lambda row: format_number(row.val_loss, ".4f"),
        "lr": lambda row: f"{row.lr:.6f}",
        "px": lambda row: f"{row.px}",
        "batch": lambda row: f"{row.global_batch:,}",
        "img/s": lambda row: format_number(row.images_per_s, ",.0f"),
        "waiting %": lambda row: format_number(row.data_wait_percent, ".1f"),
    }
    if not run.by_top5:
        del columns["top-5"]
    return list(columns), [[text(row) for text in columns.values()] for row in run.rows]


def _tables(runs: Sequence[RunFolder]) -> Iterator[str]:
    yield "<h2>Epochs</h2>"
    for number, run in enumerate(runs):
        is_open = " open" if len(runs) == 1 else ""
        headings, rows = _epochs(run)
        table = _table(headings, rows, marked=[row is run.reached() for row in run.rows])
        yield f"<details{is_open}><summary>{escape(run.name)}</summary>"
        yield f'<div class="card" {_tone(number)}>{table}</div></details>'
    if any(run.reached() for run in runs):
        yield f"<p>Bold: the first epoch at {TARGET_TOP5:g} % top-5.</p>"


def _configurations(runs: Sequence[RunFolder]) -> Iterator[str]:
    yield "<h2>Configuration</h2>"
    for run in runs:
        columns, [phases] = _phases([run])
        table = _table(columns, phases, marked=[False] * len(phases))
        yield f'<details><summary>{escape(run.name)}</summary><div class="card">{table}'
        yield _pairs(run.options().items(), "options") + "</div></details>"
