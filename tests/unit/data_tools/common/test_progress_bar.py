"""The text of a progress bar: whole parts only, the most important first."""

import pytest

from data_tools.common.progress_bar import bar_text

PARTS = ["left: epoch 1:15", "run 2:05:07", "loss 4.250", "lr 1.357", "9216 img/s", "waiting 1 %"]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (120, "epoch 3  50 %|{bar:10}| 156/312, " + ", ".join(PARTS)),
        (80, "epoch 3  50 %|{bar:10}| 156/312, left: epoch 1:15, run 2:05:07, loss 4.250"),
        (60, "epoch 3  50 %|{bar:10}| 156/312, left: epoch 1:15"),
        (50, "epoch 3  50 %, left: epoch 1:15, run 2:05:07"),
        (20, "epoch 3  50 %"),
        (10, ""),
    ],
)
def test_what_does_not_fit_is_left_out_whole(columns: int, text: str) -> None:
    drawn = bar_text(columns, "epoch 3", 156, 312, PARTS)
    assert drawn.rstrip() == text
    assert len(drawn.replace("{bar:10}", " " * 10)) == columns  # and what was there before is overwritten


def test_bar_is_not_full_before_the_end() -> None:
    assert "99 %" in bar_text(80, "images", 1_281_166, 1_281_167)
    assert "100 %|{bar:10}| 1,281,167/1,281,167" in bar_text(80, "images", 1_281_167, 1_281_167)
