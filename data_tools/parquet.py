from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_tools.index import Collector


def read(collector: Collector, shards: list[Path]) -> None:
    raise NotImplementedError


class Rows:
    """Images of a shard by row."""

    def __init__(self, path: str) -> None:
        raise NotImplementedError

    def image(self, row: int) -> bytes:
        raise NotImplementedError
