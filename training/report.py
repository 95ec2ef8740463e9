"""Report on one or several runs.

Prints the epochs and a summary, and for runs of one recipe how much they differ; writes curves.png and report.html, a
single file that needs no others.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import write_atomically
from data_tools.common.options import Argument, OptionError, Section, parse
from training.reporting import charts, run_sample
from training.reporting.report_html import page
from training.reporting.run_folder import RunFolder, read_runs, run_summary


class ReportOptions(Section):
    runs: Annotated[tuple[Path, ...], Argument("RUN_DIR")] = Field(
        description=f"run folders; more than {charts.MAX_RUNS} only if all are of one recipe"
    )
    out: Path | None = Field(
        None, description="folder for report.html and curves.png; by default that of the first run"
    )
    price: float | None = Field(None, ge=0, description="price per GPU-hour; by default no cost is shown")


def check_count(runs: Sequence[RunFolder]) -> None:
    """OptionError for more runs than charts can show, unless they are of one recipe, where some stand for all."""
    if len(runs) > charts.MAX_RUNS and len({run_sample.recipe(run) for run in runs}) > 1:
        what = f"{len(runs)} runs; at most {charts.MAX_RUNS} of several recipes can be told apart"
        raise OptionError(what, where="RUN_DIR", remedy="give fewer, or runs of one recipe")


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        print(f"{name:<24} {value}")
    print()


@program("training.report")
def main(argv: Sequence[str]) -> int:
    options = parse(ReportOptions, argv, prog="training.report", description=__doc__ or "")
    out = options.out or options.runs[0]
    runs = read_runs(options.runs)
    check_count(runs)
    shown, samples = runs[: charts.MAX_RUNS], run_sample.samples(runs)
    for run in runs:  # the epochs as the run itself prints them
        print("\n".join([run.name, run.table.heading, *map(run.table.line, run.rows)]), end="\n\n")
        show_pairs(run_summary(run, options.price))
    for sample in samples:
        print(sample.title)
        show_pairs(run_sample.sample_summary(sample))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.html", page(shown, options.price, samples).encode())
    write_atomically(out / "curves.png", charts.png(shown))
    only = f"; both draw the first {len(shown)} runs" if len(runs) > len(shown) else ""
    print(f"{out / 'report.html'}\n{out / 'curves.png'}{only}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
