"""The conversion on the command line: its signals, progress bar and final table."""

import errno
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from data_tools.common.console import plural, show
from data_tools.common.errors import UserError
from data_tools.common.files import folder_fault, too_many_open_files
from data_tools.common.progress_bar import ProgressDisplay
from data_tools.convert.config import WriteSpec
from data_tools.convert.converter import Summary, convert
from data_tools.convert.plan import ConversionError

LOG_SECONDS = 30.0  # between the lines of a log
ANNOUNCE_SECONDS = 0.2
# What a second try does not change. EFBIG: on FAT, a file has 4 GB at most.
_OF_PATHS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_OF_PATHS |= {errno.EFBIG}
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """A signal asked the conversion to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(spec: WriteSpec) -> int:
    """Write the betons; returns the exit status. However it ends, the same command can resume it."""
    if what := folder_fault(spec.data.out):  # the headers of a large tar take minutes
        raise ConversionError(what, where="data.out", remedy="give another folder")
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    started = time.monotonic()
    progress = ImageProgress()
    # A source that is refused at once prints one line, the error.
    reading = f"reading {', '.join(map(str, spec.data.source))}"
    announcement = threading.Timer(ANNOUNCE_SECONDS, show, [reading, "stderr"])
    announcement.start()

    def print_line(line: str) -> None:
        announcement.cancel()
        show(line, "stderr")

    try:
        summaries = convert(spec, report=progress.show, print_line=print_line)
    except StoppedError as stop:
        progress.close()
        show(f"\n{stop}: stopped; the same command continues from here", "stderr")
        return 128 + stop.number
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise _explained(error) from error
    finally:
        announcement.cancel()
        progress.close()
    show(table(summaries, time.monotonic() - started))
    show(next_steps(spec.data.out, summaries))
    return 0


def _stop(number: int, _: FrameType | None) -> None:
    for stop_signal in _STOP_SIGNALS:  # a second signal must not interrupt the cleanup
        signal.signal(stop_signal, signal.SIG_IGN)
    raise StoppedError(number)


def _explained(error: OSError) -> ConversionError:
    """A failed system call as an error with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"the disk of --data.out is full ({error.strerror})"
        return ConversionError(what, remedy="make room, and run the same command again")
    if limit := too_many_open_files(error):
        return ConversionError(limit.what, remedy=f"{limit.remedy}; then run the same command again")
    remedy = "fix that, or give another path" if error.errno in _OF_PATHS else "run the same command again to continue"
    return ConversionError(error.strerror or str(error), where=error.filename or "", remedy=remedy)


class ImageProgress:
    """Shows images per second and the time left. Neither the images of an interrupted run nor the time until the first
    new ones are done count for the rate."""

    def __init__(self) -> None:
        self._display: ProgressDisplay | None = None
        self._start: tuple[float, int] | None = None

    def show(self, done: int, total: int) -> None:
        """``done`` of ``total`` images are written."""
        if self._display is None:
            self._display = ProgressDisplay(LOG_SECONDS, leave=True)
            self._display.begin(total, done, "images")
            return
        if self._start is None:
            self._start = time.monotonic(), done
        if self._display.is_due(done):
            seconds, images = time.monotonic() - self._start[0], done - self._start[1]
            left = tqdm.format_interval((total - done) * seconds / images) if images else "?"
            parts = f"{left} left", f"{images / seconds:,.0f} a second" if seconds else "? a second"
            line = f"{done:,} of {plural(total, 'image')}, {parts[1]}, {parts[0]}"
            self._display.show(done, parts, line)

    def close(self) -> None:
        if self._display is not None:
            self._display.close()


def table(summaries: list[Summary], seconds: float) -> str:
    """A line for each file."""
    lines = [f"{'file':<18}{'images':>11}{'bad':>6}{'MB':>12}{'seconds':>10}"]
    for file in summaries:
        time_taken = f"{file.seconds:.1f}" if file.seconds else "kept"
        lines.append(f"{file.path.name:<18}{file.images:>11,}{file.bad:>6}{file.bytes / 1e6:>12,.1f}{time_taken:>10}")
    total = sum(file.bytes for file in summaries)
    lines.append(f"{'all':<18}{'':>17}{total / 1e6:>12,.1f}{seconds:>10.1f}")
    return "\n".join(lines)


def next_steps(folder: Path, summaries: Sequence[Summary]) -> str:
    """The folder that is complete, and the commands that check it and train from it."""
    python, here = Path(sys.executable), Path.cwd()
    program = shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))
    names = {file.path.name for file in summaries}
    fits = {f"{split}_{cap}.beton" for split in ("train", "val") for cap in ("160", "320", "full")} <= names
    recipe = "rn50_configs/titan8.yaml" if fits else "RECIPE.yaml"
    return "\n".join(
        (
            f"{folder} is complete. To check it, and to train from it:",
            f"  {program} -m data_tools.verify {shlex.quote(str(folder))}/*.beton",
            f"  {program} train_imagenet.py --config-file {recipe} --data.dir={shlex.quote(str(folder))}",
        )
    )
