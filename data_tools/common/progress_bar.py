"""A progress bar on standard error for terminals."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

REDRAW_SECONDS = 0.5
BAR = 10  # columns of the bar itself
MIN_COLUMNS = 60  # on narrower terminals the numbers take its place


class TerminalBar:
    """A bar of ``total`` steps that begins at ``done``. It follows the terminal's width, and leaves out what does not
    fit; ``leave`` keeps it on the screen at its end."""

    def __init__(self, total: int, done: int, name: str = "", leave: bool = False) -> None:
        self._total, self._name = total, name
        self._figures: Sequence[str] = ()
        self._columns, lines = terminal_size()
        self._redrawn = time.monotonic()
        text = line(self._columns, name, done, total, [])
        self._bar = tqdm(total=total, initial=done, leave=leave, ncols=self._columns, nrows=lines, bar_format=text)

    @property
    def is_due(self) -> bool:
        """Whether the bar was not redrawn for half a second."""
        return time.monotonic() - self._redrawn >= REDRAW_SECONDS

    def show(self, done: int, figures: Sequence[str] | None = None) -> None:
        """Redraw at ``done``, with new ``figures``, the most important first."""
        self._bar.n, self._redrawn = done, time.monotonic()
        self._figures = self._figures if figures is None else figures
        columns, self._bar.nrows = terminal_size()
        if columns != self._columns:  # tqdm would overwrite the old width, and so wrap
            self._columns = self._bar.ncols = columns
            self._bar.sp = tqdm.status_printer(self._bar.fp)
            self._bar.fp.write("\r\x1b[J")
        self._bar.bar_format = line(columns, self._name, done, self._total, self._figures)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal on standard error."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))
    return size if size.columns else shutil.get_terminal_size()


def line(columns: int, name: str, done: int, total: int, figures: Sequence[str]) -> str:
    """The text of a bar in tqdm's notation, ``columns`` wide: as many whole parts as fit, the first ones first."""
    head = f"{name} {100 * done // max(total, 1):3} %".lstrip()
    counts = f"{done:,}/{total:,}"
    blank = " " * BAR
    graphic = columns >= MIN_COLUMNS
    parts = [f"{head}|{blank}| {counts}", *figures] if graphic else [head, *figures, counts]
    while len(parts) > 1 and len(", ".join(parts)) > columns:
        parts.pop()
    text = ", ".join(parts)[:columns].ljust(columns)
    return text.replace(f"|{blank}|", f"|{{bar:{BAR}}}|", 1) if graphic else text
