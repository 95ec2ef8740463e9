"""Numbers as people write them."""

import pytest

from data_tools.common.console import plural


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "GPU", "1 GPU"),
        (0, "GPU", "0 GPUs"),
        (28, "epoch", "28 epochs"),
        (2, "batch", "2 batches"),
        (1000, "class", "1,000 classes"),
    ],
)
def test_plurals(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text
