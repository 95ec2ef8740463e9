"""How the process of a program is set up: what libraries read from its environment, and its standard streams."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO

# How long OpenMP's threads spin while they wait for each other; each of these is a choice that the user has made.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Make OpenMP's waiting threads, torch's and numba's, sleep instead of spinning, unless ``environment`` says how.

    Where other work shares the cores, a thread that spins takes them from the one that it waits for
    (docs/PERFORMANCE.md has figures). Processes that are started inherit it.
    """
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"


def open_standard_streams() -> None:
    """Make standard streams take anything that is printed.

    Those that came closed (``2>&-``) lead to nowhere, before a file that is opened takes their place. What their
    encoding lacks is shown as Python writes it, since names may hold anything and a locale may be C.
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


class Expendable:
    """A stream that drops what cannot be written; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

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
            self._empty(for_good=error.errno != errno.ENOSPC)  # a disk may have room again
        except ValueError:  # closed
            pass

    def _empty(self, for_good: bool) -> None:
        """Let what the stream still holds go to nowhere, or Python tries again at its exit and ends with status 120."""
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
def expendable_output() -> Iterator[None]:
    """Inside the block, output that cannot be written is dropped; a run is worth more than what it prints."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Expendable(before[0]), Expendable(before[1])
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
