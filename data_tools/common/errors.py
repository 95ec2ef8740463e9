"""Mistakes that a user can fix: one kind of error, which every program prints in the same way.

Exit statuses of all programs: 0 done; 1 a check found a fault (verify, doctor, compare), or a traceback; 2 a
mistake that the user can fix; 75 a training that was told to stop and has saved; 128 + n ended by signal n.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import ClassVar

from data_tools.common.runtime import (
    checked_output,
    expendable_output,
    let_waiting_threads_sleep,
    open_standard_streams,
)

MISTAKE = 2
LONG = 80  # characters; a longer remedy has a line of its own


class UserError(Exception):
    """``what`` is wrong, ``where`` (a file or an option; empty if ``what`` says it), the ``remedy``; and ``others``
    found with it."""

    status: ClassVar[int] = MISTAKE

    def __init__(self, what: str, *, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = printable(what), printable(str(where)), printable(remedy)
        self.others: tuple[UserError, ...] = ()
        super().__init__(what)

    @property
    def fault(self) -> str:
        """Where and what, without the remedy."""
        return f"{self.where}: {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.fault}; {self.remedy}" if self.remedy else self.fault


class HelpRequested(Exception):
    """``--help`` was given; its text is the argument."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that is needed is not there."""


def printable(text: str) -> str:
    """``text`` on one line: unprintable characters are escaped as in Python, since names may contain anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def program(name: str) -> Callable[[Callable[[Sequence[str]], int]], Callable[[Sequence[str]], int]]:
    """Makes ``main(argv) -> status`` a program: a :class:`UserError` is a line on standard error and its status, and
    a reader who has seen enough of the output, or Ctrl-C, ends it quietly. Standard output that cannot be written is an
    error, too; standard error is dropped then. Anything else keeps its traceback. ``main`` must import
    torch, and what else has threads of OpenMP, itself: OpenMP reads the environment once, when it is loaded."""

    def wrap(main: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
        @functools.wraps(main)
        def guarded(argv: Sequence[str]) -> int:
            open_standard_streams()
            let_waiting_threads_sleep(os.environ)
            with expendable_output("stderr"), checked_output():
                try:
                    return _run(name, main, argv)
                except KeyboardInterrupt:
                    print(f"{name}: stopped", file=sys.stderr)
                    return 128 + signal.SIGINT
                except BrokenPipeError:
                    return 128 + signal.SIGPIPE
                except OSError as error:
                    if error.filename is None:
                        raise
                    file = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
                    return print_error(name, UserError(error.strerror or str(error), where=file))

        return guarded

    return wrap


def _run(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    try:
        status = main(argv)
        sys.stdout.flush()
    except HelpRequested as help:
        with contextlib.suppress(BrokenPipeError):  # as by `--help | head`
            print(help, flush=True)
        return 0
    except UserError as error:
        status = print_error(name, error)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    return status


def print_error(name: str, error: UserError) -> int:
    """``error`` and its ``others`` as lines of the program ``name``, a long remedy below its line; the exit status."""
    for each in (error, *error.others):
        if len(each.remedy) <= LONG:
            print(f"{name}: error: {each}", file=sys.stderr)
        else:
            print(f"{name}: error: {each.fault}\n  remedy: {each.remedy}", file=sys.stderr)
    return error.status
