"""Standard output that may fail without ending the program: a closed pipe, a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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
