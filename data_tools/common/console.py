"""What a run prints: results on standard output, everything else, through `logging`, on standard error.

A run is worth more than what it prints: lines that cannot be written, to a closed pipe or a full disk, are dropped.
"""

import contextlib
import logging
import os
import sys
from typing import Literal, TextIO

LOGGERS = ("data_tools", "training")


def show(text: str, stream: Literal["stdout", "stderr"] = "stdout") -> bool:
    """Print a line, or drop it if it cannot be written; whether it was."""
    to: TextIO = getattr(sys, stream)
    try:
        to.write(f"{text}\n")
        to.flush()
        return True
    except (OSError, ValueError):  # ValueError: it is closed
        drop_unwritten(to)
        return False


def drop_unwritten(stream: TextIO) -> OSError | None:
    """Flush ``stream``; drop what cannot be written, and return the error.

    Otherwise Python would try again at exit, and end with status 120.
    """
    try:
        stream.flush()
    except ValueError:
        pass
    except OSError as error:
        number = stream.fileno()
        before, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        with contextlib.suppress(OSError):
            stream.flush()
        os.dup2(before, number)  # a disk may have room again
        os.close(before)
        os.close(nowhere)
        return error
    return None


class StandardError(logging.Handler):
    """Prints records on what standard error is at the moment; warnings and errors with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        show(level + record.getMessage(), "stderr")


def set_up() -> None:
    """Print the messages of this project's packages; in other processes of a job than the first, only warnings.

    Programs call it; a library must not.
    """
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [StandardError()]
        logger.setLevel(level)


def plural(count: int, noun: str) -> str:
    """``1 GPU``, ``3 epochs``, ``5 batches``, ``1,000 classes``."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "tch")) else "s"
    return f"{count:,} {noun}{ending}"
