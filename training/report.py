"""Report on one or several runs.

Prints the epochs and a summary, and writes curves.png and report.html, a single file that needs no others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.errors import program
from data_tools.common.files import write_atomically
from data_tools.common.options import REQUIRED, OptionError, check, option, parse
from training.reporting import charts
from training.reporting.report_html import page
from training.reporting.run_folder import RunFolder, read_runs, summary


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """One report."""

    runs: tuple[Path, ...] = option(REQUIRED, f"run folders, at most {charts.MAX_RUNS}", argument="RUN_DIR")
    out: Path | None = option(None, "folder for report.html and curves.png", none="that of the first run")
    price: float | None = option(None, "price per GPU-hour", low=0, none="show no cost")

    def __post_init__(self) -> None:
        check(self)
        if len(self.runs) > charts.MAX_RUNS:
            what = f"{len(self.runs)} runs; at most {charts.MAX_RUNS} can be told apart"
            raise OptionError(what, where="RUN_DIR", remedy="give fewer")


def show(run: RunFolder, price: float | None) -> None:
    """Print the epochs as the run itself does, and the summary."""
    print(run.name)
    print(run.table.heading)
    for row in run.rows:
        print(run.table.line(row))
    print()
    for name, value in summary(run, price):
        print(f"{name:<24} {value}")
    print()


@program("training.report")
def main(argv: Sequence[str]) -> int:
    options = parse(ReportOptions, argv, prog="training.report", description=__doc__ or "")
    out = options.out or options.runs[0]
    runs = read_runs(options.runs)
    for run in runs:
        show(run, options.price)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.html", page(runs, options.price).encode())
    write_atomically(out / "curves.png", charts.png(runs))
    print(f"{out / 'report.html'}\n{out / 'curves.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
