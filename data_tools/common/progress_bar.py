"""A bar on a terminal, by tqdm."""

from __future__ import annotations

import shutil
from typing import Any

from tqdm import tqdm


def terminal_bar(total: int, done: int, **options: Any) -> tqdm:
    """A bar of ``total`` steps that begins at ``done``, as wide as the terminal; ``options`` are tqdm's.

    What is wider is cut off, since a line that wraps stays behind.
    """
    size = shutil.get_terminal_size()  # which, unlike tqdm, knows what to do where a terminal has no size
    return tqdm(total=total, initial=done, ncols=size.columns, nrows=size.lines, **options)
