"""Numbers as people write them."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """``1 GPU``, ``3 epochs``, ``5 batches``, ``1,000 classes``."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "tch")) else "s"
    return f"{count:,} {noun}{ending}"
