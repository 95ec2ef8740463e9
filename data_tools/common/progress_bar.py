"""Progress on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence

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
        self._total: int | None = None  # while there is a bar

    def begin(self, total: int, done: int = 0, name: str = "") -> None:
        """``total`` steps begin, of which some may be ``done``."""
        if self._on_terminal:
            self._name, self._total = name, total
            self.show(done, ())

    def is_due(self, done: int | None = None) -> bool:
        """Whether it is time for :meth:`show`; a bar's end always is."""
        ends = self._total is not None and done == self._total
        return ends or time.monotonic() - self._shown >= self._seconds

    def show(self, done: int, parts: Sequence[str], line: str = "") -> None:
        """Draw the bar at ``done`` with new ``parts``, the most important first; or print ``line``."""
        if self._total is not None:
            self._parts, self._shown = parts, time.monotonic()
            self._draw(done, self._total)
        elif line and not self._on_terminal:
            self._shown = time.monotonic()
            show(line, "stdout" if self._lines_to_stdout else "stderr")

    def advance(self, done: int) -> None:
        """Move the bar on, with the parts that it has, unless it was drawn just now."""
        if self._total is not None and time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw(done, self._total)

    def _draw(self, done: int, total: int) -> None:
        self._drawn = time.monotonic()
        _write(f"\r\x1b[J{bar_text(terminal_columns(), self._name, done, total, self._parts)}")

    def close(self) -> None:
        """Clear the bar, or leave it."""
        if self._total is not None:
            _write("\n" if self._leave else "\r\x1b[J")
            self._total = None


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        sys.stderr.write(text)
        sys.stderr.flush()


def terminal_columns() -> int:
    """Of the terminal on standard error."""
    columns = 0
    with contextlib.suppress(OSError, ValueError):
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return columns or shutil.get_terminal_size().columns


def bar_text(columns: int, name: str, done: int, total: int, parts: Sequence[str] = ()) -> str:
    """The text of a bar, ``columns`` wide: as many whole parts as fit, the first ones first."""
    head = f"{name} {100 * done // max(total, 1):3} %".lstrip()
    counts = f"{done:,}/{total:,}"
    full = "█" if "utf" in (sys.stderr.encoding or "").lower() else "#"
    bar = (full * (BAR * done // max(total, 1))).ljust(BAR)
    shown = [f"{head}|{bar}| {counts}", *parts] if columns >= MIN_COLUMNS else [head, *parts, counts]
    while len(shown) > 1 and len(", ".join(shown)) > columns:
        shown.pop()
    return ", ".join(shown)[:columns].ljust(columns)


def clock(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
