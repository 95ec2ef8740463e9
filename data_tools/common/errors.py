"""Mistakes that a user can fix: one kind of error, which every program prints in the same way.

Exit statuses of all programs: 0 done; 1 a check found a fault (verify, adopt, doctor, compare), or a traceback; 2 a
mistake that the user can fix; 75 a training that was told to stop and has saved; 128 + n ended by signal n.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import ClassVar

from data_tools.common import console
from data_tools.common.runtime import let_waiting_threads_sleep, open_standard_streams

MISTAKE = 2
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SLURM sends the last before a job's time is over
LONG = 80  # characters; a longer remedy has a line of its own


class UserError(Exception):
    """``what`` is wrong, ``where`` (a file or an option; empty if ``what`` says it), and the ``remedy``; ``others`` are
    mistakes found at the same time."""

    status: ClassVar[int] = MISTAKE

    def __init__(self, what: str, *, where: object = "", remedy: str = "", others: Sequence[UserError] = ()) -> None:
        self.what, self.where, self.remedy = printable(what), printable(str(where)), printable(remedy)
        self.others = tuple(others)
        super().__init__(what)

    @property
    def fault(self) -> str:
        """Where and what, without the remedy."""
        return f"{self.where}: {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.fault}; {self.remedy}" if self.remedy else self.fault


class MissingFileError(UserError, FileNotFoundError):
    """A file that is needed is not there."""


def printable(text: str) -> str:
    """``text`` on one line: unprintable characters are escaped as in Python, since names may contain anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def program(name: str) -> Callable[[Callable[[Sequence[str]], int]], Callable[[Sequence[str]], int]]:
    """Makes ``main(argv) -> status`` a program: a :class:`UserError` is a line on standard error and its status, and
    a reader who has seen enough of the output, Ctrl-C, or another signal ends it quietly. Standard output that cannot
    be written is an error, too, except of lines that `console.show` prints. Anything else keeps its traceback. ``main``
    must import torch, and what else has threads of OpenMP, itself: OpenMP reads the environment once, when it is
    loaded."""

    def wrap(main: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
        @functools.wraps(main)
        def guarded(argv: Sequence[str]) -> int:
            open_standard_streams()
            let_waiting_threads_sleep(os.environ)
            console.set_up()
            try:
                with _unwinding_at_signals():
                    status = main(argv)
                sys.stdout.flush()
                return status
            except UserError as error:
                return print_error(name, error)
            except KeyboardInterrupt as stopped:
                console.show(f"{name}: stopped", "stderr")
                return 128 + int((stopped.args or (signal.SIGINT,))[0])
            except OSError as error:
                return _failed(name, error)
            finally:
                for stream in (sys.stdout, sys.stderr):
                    console.drop_unwritten(stream)

        return guarded

    return wrap


@contextlib.contextmanager
def _unwinding_at_signals() -> Iterator[None]:
    """Make `ENDING` signals end the block as Ctrl-C does, so that locks and unfinished files are not left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    in_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    taken = [each for each in ENDING if in_main and signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in taken:
            if signal.getsignal(each) is interrupt:
                signal.signal(each, signal.SIG_DFL)


def _failed(name: str, error: OSError) -> int:
    """The exit status after a failed system call; raises ``error`` unless it names a file or is standard output's."""
    if error.filename is not None:
        return print_error(name, UserError(error.strerror or str(error), where=os.fsdecode(error.filename)))
    try:
        print(flush=True)  # whether standard output takes a line
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as unwritten:
        return print_error(name, UserError(unwritten.strerror or str(unwritten), where="standard output"))
    raise error


def print_error(name: str, error: UserError) -> int:
    """``error`` as a line of the program ``name``, a long remedy below it, and likewise those with it; its exit
    status."""
    for each in (error, *error.others):
        text = str(each) if len(each.remedy) <= LONG else f"{each.fault}\n  remedy: {each.remedy}"
        console.show(f"{name}: error: {text}", "stderr")
    return error.status
