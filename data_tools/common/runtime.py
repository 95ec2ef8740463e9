"""How the process of a program is set up: its Python, what libraries read from its environment, its standard streams.

This module must also run on Python 3.7, so that it can say what is needed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]
PYTHON = ".venv/bin/python"
OLDEST = (3, 11)
PROGRAMS = ("write_datasets.py", "train_imagenet.py")
NEEDED = "fastargs"  # by every program

# How long OpenMP's threads spin while they wait for each other; setting any of these is the user's choice.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def check_python(argv: Sequence[str], command_line: Sequence[str]) -> None:
    """End one of the project's programs, with a line and status 2, under a Python that lacks the project's packages.

    ``argv`` is ``sys.argv``, whose first word is ``-m`` while ``python -m`` imports the package of its module;
    ``command_line`` is ``sys.orig_argv``.
    """
    program = Path(argv[0]).name if argv and argv[0] else ""
    if program == "-m":
        program = command_line[command_line.index("-m") + 1] if "-m" in command_line[:-1] else "python -m"
    elif program not in PROGRAMS:
        return
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST:
        what = f"{sys.executable} is Python {version}, and 3.11 or newer is needed"
    elif importlib.util.find_spec(NEEDED) is None:
        what = f"{sys.executable} lacks the packages of this project"
    else:
        return
    path = PYTHON if Path.cwd() == ROOT else ROOT / PYTHON
    remedy = f"use {path}" if (ROOT / PYTHON).exists() else f"`make env` creates {path}, which has them"
    if Path(sys.prefix) == ROOT / ".venv":
        remedy = "run `make env`"
    print(f"{program}: error: {what}; {remedy}", file=sys.stderr)
    sys.exit(2)


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Make OpenMP's waiting threads, torch's and numba's, sleep instead of spinning, unless ``environment`` says how.

    Where other work shares the cores, a thread that spins takes them from the one that it waits for
    (docs/PERFORMANCE.md has figures). Processes that are started inherit it.
    """
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"


def open_standard_streams() -> None:
    """Make standard streams take anything that is printed.

    Those that were closed at the start (``2>&-``) go to /dev/null, before an opened file takes their number. What
    their encoding lacks is escaped as in Python, since names may contain anything and the locale may be C.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
        if number and hasattr(stream := getattr(sys, name), "reconfigure"):  # not so in a notebook
            stream.reconfigure(errors="backslashreplace")


class Output:
    """A stream for what a program prints; all but writing is the stream's own. What cannot be written is dropped, and
    unless it is ``expendable``, the error names "standard output" as its file."""

    def __init__(self, stream: TextIO | Output, expendable: bool) -> None:
        self._stream: TextIO = stream._stream if isinstance(stream, Output) else stream
        self._expendable = expendable

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # A disk may have room again.
            self._empty(for_good=not self._expendable or error.errno != errno.ENOSPC)
            if not self._expendable:
                error.filename = "standard output"
                raise
        except ValueError:  # closed
            if not self._expendable:
                raise

    def _empty(self, for_good: bool) -> None:
        """Discard what the stream still holds, or Python tries again at exit and ends with status 120."""
        number = self._stream.fileno()
        before = os.dup(number)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        self._stream.flush()
        if not for_good:
            os.dup2(before, number)
        os.close(before)


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Inside the block, an OSError of standard output says so, and is the last one of it."""
    with _replaced({"stdout": Output(sys.stdout, expendable=False)}):
        yield


@contextlib.contextmanager
def expendable_output(*names: str) -> Iterator[None]:
    """Inside the block, what cannot be written to the streams ``names`` of ``sys``, by default both, is dropped; a run
    is worth more than what it prints."""
    streams = {name: Output(getattr(sys, name), expendable=True) for name in names or ("stdout", "stderr")}
    with _replaced(streams):
        try:
            yield
        finally:
            for stream in streams.values():
                stream.flush()


@contextlib.contextmanager
def _replaced(streams: Mapping[str, Output]) -> Iterator[None]:
    """Standard streams by name, replaced inside the block."""
    before = {name: getattr(sys, name) for name in streams}
    for name, stream in streams.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
