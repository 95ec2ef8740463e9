"""The text of a progress bar: whole parts only, the most important first."""

import pytest

from data_tools.common.progress_bar import bar_text, clock

PARTS = ["left: epoch 1:15", "run 2:05:07", "loss 4.250", "lr 1.357", "9216 img/s", "waiting 1 %"]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (120, "epoch 3  50 %|#####     | 156/312, " + ", ".join(PARTS)),
        (80, "epoch 3  50 %|#####     | 156/312, left: epoch 1:15, run 2:05:07, loss 4.250"),
        (60, "epoch 3  50 %|#####     | 156/312, left: epoch 1:15"),
        (50, "epoch 3  50 %, left: epoch 1:15, run 2:05:07"),
        (20, "epoch 3  50 %"),
    ],
)
def test_what_does_not_fit_is_left_out_whole(columns: int, text: str) -> None:
    drawn = bar_text(columns, "epoch 3", 156, 312, PARTS).replace("█", "#")
    assert drawn.rstrip() == text
    assert len(drawn) == columns


def test_bar_is_not_full_before_the_end() -> None:
    assert "99 %" in bar_text(80, "images", 1_281_166, 1_281_167)
    full = bar_text(80, "images", 1_281_167, 1_281_167).replace("█", "#")
    assert "100 %|##########| 1,281,167/1,281,167" in full


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (float("nan"), "?")]
)
def test_clock_format(seconds: float, text: str) -> None:
    assert clock(seconds) == text
