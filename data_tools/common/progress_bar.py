"""Progress on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from data_tools.common.console import show

REDRAW_SECONDS = 0.5
BAR = 10  # columns of the bar itself
MIN_COLUMNS = 60  # on narrower terminals the numbers take its place


class ProgressDisplay:
    """On a terminal a bar, elsewhere a line every ``seconds``.

    The bar follows the terminal's width and leaves out what does not fit; ``leave`` keeps it on the screen at its end.
    With ``lines_to_stdout`` there are lines on a terminal, too, and they go to standard output. What cannot be written
    is dropped.
    """

    def __init__(self, seconds: float = math.inf, *, leave: bool = False, lines_to_stdout: bool = False) -> None:
        self._leave, self._lines_to_stdout = leave, lines_to_stdout
        self._on_terminal = not lines_to_stdout and sys.stderr.isatty()
        self._seconds = REDRAW_SECONDS if self._on_terminal else seconds
        self._shown = self._drawn = time.monotonic()
        self._bar: tqdm | None = None
        self._parts: Sequence[str] = ()

    def begin(self, total: int, done: int = 0, name: str = "") -> None:
        """``total`` steps begin, of which some may be ``done``."""
        if self._on_terminal:
            self._name, self._total, self._parts = name, total, ()
            self._columns, lines = terminal_size()
            text = bar_text(self._columns, name, done, total)
            size = {"ncols": self._columns, "nrows": lines}
            with contextlib.suppress(OSError):  # the terminal is gone
                self._bar = tqdm(total=total, initial=done, leave=self._leave, bar_format=text, **size)
            self._shown = self._drawn = time.monotonic()

    def is_due(self, done: int | None = None) -> bool:
        """Whether it is time for :meth:`show`; a bar's end always is."""
        ends = self._bar is not None and done == self._total
        return ends or time.monotonic() - self._shown >= self._seconds

    def show(self, done: int, parts: Sequence[str], line: str = "") -> None:
        """Draw the bar at ``done`` with new ``parts``, the most important first; or print ``line``."""
        if self._bar is not None:
            self._parts, self._shown = parts, time.monotonic()
            self._draw(done)
        elif line and not self._on_terminal:
            self._shown = time.monotonic()
            show(line, "stdout" if self._lines_to_stdout else "stderr")

    def advance(self, done: int) -> None:
        """Move the bar on, with the parts that it has, unless it was drawn just now."""
        if self._bar is not None and time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw(done)

    def _draw(self, done: int) -> None:
        assert self._bar is not None
        self._drawn = time.monotonic()
        columns, self._bar.nrows = terminal_size()
        self._bar.n = done
        self._bar.bar_format = bar_text(columns, self._name, done, self._total, self._parts)
        with contextlib.suppress(OSError):
            if columns != self._columns:  # tqdm would overwrite the old width, and so wrap
                self._columns = self._bar.ncols = columns
                self._bar.sp = tqdm.status_printer(self._bar.fp)
                self._bar.fp.write("\r\x1b[J")
            self._bar.refresh()

    def close(self) -> None:
        """Clear the bar, or leave it."""
        if self._bar is not None:
            self._draw(int(self._bar.n))  # the terminal may be narrower by now
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal on standard error."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))
    return size if size.columns else shutil.get_terminal_size()


def bar_text(columns: int, name: str, done: int, total: int, parts: Sequence[str] = ()) -> str:
    """The text of a bar in tqdm's notation, ``columns`` wide: as many whole parts as fit, the first ones first."""
    head = f"{name} {100 * done // max(total, 1):3} %".lstrip()
    counts = f"{done:,}/{total:,}"
    blank = " " * BAR
    graphic = columns >= MIN_COLUMNS
    shown = [f"{head}|{blank}| {counts}", *parts] if graphic else [head, *parts, counts]
    while len(", ".join(shown)) > columns:
        shown.pop()
    text = ", ".join(shown).ljust(columns)
    return text.replace(f"|{blank}|", f"|{{bar:{BAR}}}|", 1) if graphic else text
