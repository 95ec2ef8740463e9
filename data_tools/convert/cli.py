"""The conversion on the command line: its signals, progress bar and final table."""

from __future__ import annotations

import errno
import signal
import sys
import time
from types import FrameType

from tqdm import tqdm

from data_tools.common.errors import UserError
from data_tools.common.files import too_many_open_files
from data_tools.common.progress_bar import terminal_bar
from data_tools.convert.config import WriteSpec
from data_tools.convert.converter import Summary, convert
from data_tools.convert.plan import ConversionError

LOG_SECONDS = 30.0  # between the lines of a log
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """A signal asked the conversion to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(spec: WriteSpec) -> int:
    """Write the betons; returns the exit status. However it ends, the same command can resume it."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop)
    started = time.monotonic()
    bar = Bar()
    try:
        summaries = convert(spec, report=bar.show, print_line=_print_line)
    except StoppedError as stop:
        bar.close()
        print(f"\n{stop}: stopped; the same command continues from here", file=sys.stderr)
        return 128 + stop.number
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise _explained(error) from error
    finally:
        bar.close()
    print(table(summaries, time.monotonic() - started))
    return 0


def _stop(number: int, _: FrameType | None) -> None:
    for stop_signal in _STOP_SIGNALS:  # a second signal must not interrupt the cleanup
        signal.signal(stop_signal, signal.SIG_IGN)
    raise StoppedError(number)


def _print_line(line: str) -> None:
    print(line, file=sys.stderr)


def _explained(error: OSError) -> ConversionError:
    """A failed system call as an error with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"the disk of --data.out is full ({error.strerror})"
        return ConversionError(what, remedy="make room, then the same command continues")
    if limit := too_many_open_files(error):
        return ConversionError(limit.what, remedy=f"{limit.remedy}; then the same command continues")
    return ConversionError(str(error), remedy="the same command continues")


class Bar:
    """Images per second and the time left: a bar on a terminal, elsewhere a plain line now and then.

    Images of an interrupted run do not count for the rate.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.terminal = sys.stderr.isatty()
        self.start: tuple[float, int] | None = None  # time, and images done by then
        self.last_line = 0.0

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.start is None:
            self.start, self.last_line = (now, done), now
        if not self.terminal:
            if now - self.last_line >= LOG_SECONDS:
                self.last_line = now
                _print_line(_line(done, total, now - self.start[0], done - self.start[1]))
            return
        if self.bar is None:
            self.bar = terminal_bar(total, done, unit="img", smoothing=0.05)
        if done > self.bar.n:
            self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _line(done: int, total: int, seconds: float, images: int) -> str:
    left = tqdm.format_interval((total - done) * seconds / images) if images else "?"
    return f"{done:,} of {total:,} images, {images / seconds:,.0f} a second, {left} left"


def table(summaries: list[Summary], seconds: float) -> str:
    """A line for each file."""
    lines = [f"{'file':<24}{'images':>12}{'MB':>12}{'KB/image':>10}{'seconds':>10}"]
    for file in summaries:
        kilobytes = file.stored / file.images / 1e3
        time_taken = f"{file.seconds:.1f}" if file.seconds else "there"
        line = f"{file.path.name:<24}{file.images:>12,}{file.bytes / 1e6:>12,.1f}{kilobytes:>10.1f}{time_taken:>10}"
        lines.append(line)
    total = sum(file.bytes for file in summaries)
    lines.append(f"{'all':<24}{'':>12}{total / 1e6:>12,.1f}{'':>10}{seconds:>10.1f}")
    return "\n".join(lines)
