"""What started a run: the command, and the commit of the sources."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from data_tools.common.errors import printable

ROOT = Path(__file__).parents[2]
# The processes that the launcher starts have another command line; they inherit the environment.
COMMAND = "TRAIN_IMAGENET_COMMAND"


def command() -> str:
    return printable(os.environ.get(COMMAND) or shlex.join(sys.orig_argv))  # JSON holds no bytes that are not UTF-8


def git_commit(root: Path = ROOT) -> str | None:
    """The commit of a checkout, with ``+changes`` where files differ from it; None outside one, or without git."""
    if not (root / ".git").exists():
        return None
    try:
        head, changes = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changes else head


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
