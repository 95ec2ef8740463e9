"""How the process of a program is set up: its Python, what libraries read from its environment, its standard streams.

This module must also run on Python 3.7, so that it can say what is needed.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

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
    path = shlex.quote(str(PYTHON if Path.cwd() == ROOT else ROOT / PYTHON))
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
