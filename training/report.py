"""The report of a run, or of several beside each other.

    python -m training.report RUN_DIR... [--out DIR] [--price P]

Prints the epochs and a summary, and writes report.html, one file that needs nothing else, and charts.png.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.common.files import write_atomically
from data_tools.common.options import OptionError
from training.reporting import charts
from training.reporting.report_html import page
from training.reporting.run_folder import RunFolder, read_runs, summary
from training.runlog.epoch_table import HEADING, line


def _price(text: str) -> float:
    price = float(text)
    if not (math.isfinite(price) and price >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a price")
    return price


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.report", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, at most six")
    parser.add_argument("--out", type=Path, help="folder for report.html and charts.png; by default the first run's")
    parser.add_argument("--price", type=_price, help="money per GPU-hour")
    return parser.parse_args(argv)


def show(run: RunFolder, price: float | None) -> None:
    """The epochs as the run itself prints them, and the summary."""
    print(run.name)
    print(HEADING)
    for row in run.rows:
        print(line(row))
    print()
    for name, value in summary(run, price):
        print(f"{name:<24} {value}")
    print()


def main(argv: Sequence[str]) -> int:
    given = _arguments(argv)
    out = given.out or given.runs[0]
    try:
        if len(given.runs) > charts.MOST_RUNS:
            raise OptionError(f"{len(given.runs)} runs; at most {charts.MOST_RUNS} can be told apart, give fewer")
        runs = read_runs(given.runs)
        for each in runs:
            show(each, given.price)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "report.html", page(runs, given.price).encode())
        write_atomically(out / "curves.png", charts.png(runs))
    except (OptionError, OSError) as error:
        print(f"training.report: error: {error}", file=sys.stderr)
        return 2
    print(f"{out / 'report.html'}\n{out / 'curves.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
