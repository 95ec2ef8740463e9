"""The plot of a schedule draws its phases and learning rates."""

from helpers.recipes import schedule

from training.reporting.schedule_plot import plot


def test_plot_draws_the_schedule() -> None:
    px, batch, lr = plot(schedule("titan8"), gpus=8).axes
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
