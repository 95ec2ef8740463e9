"""The plot of a schedule draws its phases and learning rates."""

from __future__ import annotations

from pathlib import Path

from data_tools.common.options import parse
from training.config.run_config import RunConfig
from training.reporting.schedule_plot import plot

TITAN8 = Path(__file__).parents[4] / "rn50_configs/titan8.yaml"


def test_plot_draws_the_schedule() -> None:
    options = parse(RunConfig, ["--config-file", str(TITAN8)], prog="test").schedule
    px, batch, lr = plot(options.build(), options.gpus).axes
    assert [list(axes.patches[0].get_data().values) for axes in (px, batch)] == [[128, 224, 288], [4096, 1792, 1024]]
    assert list(px.patches[0].get_data().edges) == [0, 13, 25, 28]
    drawn = [(*line.get_xdata(), *line.get_ydata()) for line in lr.get_lines() if line.get_linestyle() == "-"]
    assert drawn[:2] == [(0, 7, 1.0, 2.0), (7, 13, 2.0, 0.25)]
    assert drawn[-1] == (25, 28, 0.0025, 0.00025)
    assert [axes.get_title(loc="left") for axes in (px, batch, lr)] == [
        "px",
        "global batch, on 8 GPUs",
        "learning rate",
    ]
