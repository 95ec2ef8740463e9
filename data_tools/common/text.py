"""Numbers as people write them."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """``1 GPU``, ``2 GPUs``, ``1,000 classes``."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count:,} {noun}{ending}"
