"""A tqdm bar for terminals."""

from __future__ import annotations

import shutil
from typing import Any

from tqdm import tqdm


def terminal_bar(total: int, done: int, **options: Any) -> tqdm:
    """A bar of ``total`` steps that begins at ``done``; ``options`` are tqdm's.

    It is cut to the terminal's width, since a line that wraps is not erased.
    """
    size = shutil.get_terminal_size()  # unlike tqdm, it has a default for a terminal without a size
    return tqdm(total=total, initial=done, ncols=size.columns, nrows=size.lines, **options)
