"""The table of phases in a report."""

from __future__ import annotations

from helpers.recipes import schedule

from training.reporting.schedule_plot import phase_cells


def test_phases_of_titan8_by_hand() -> None:
    columns = ("epochs", "px", "batch per GPU", "set", "least crop", "validation", "learning rate")
    top, mid, low = "0.4375", "0.04375", "0.004375"
    rows = (
        ("1-13", "128", "512", "160", "0.08", "squares of 128 px from 160", "1 → 2, 2 → 0.25"),
        ("14-25", "224", "224", "320", "0.087", "squares of 224 px from 320", f"{top} → {mid}, {mid} → {low}"),
        ("26-28", "288", "128", "full", "0.5", "rectangles of 288 px from full", "0.0025 → 0.00025"),
    )
    assert phase_cells(schedule("titan8")) == [dict(zip(columns, row, strict=True)) for row in rows]


def test_learning_rates_of_a_ramp_over_two_phases() -> None:
    # rn50_16: from 1.7 after epoch 2 to 0 after epoch 16, linearly; the last phase begins at epoch 12 or later.
    epochs16 = schedule("rn50_16")
    ramp, last = epochs16.lr_ramps[-1], epochs16.phases[-1]
    at_start = ramp.first + (ramp.last - ramp.first) * (last.start - ramp.start) / (ramp.end - ramp.start)
    assert ramp.start < last.start < ramp.end
    assert phase_cells(epochs16)[-1]["learning rate"] == f"{at_start:.4g} → {ramp.last:.4g}"
