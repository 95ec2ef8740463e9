"""The charts of a run draw its numbers."""

from pathlib import Path

import pytest
from helpers.run_folders import run_folder

from training.reporting import charts
from training.reporting.plotting import PAGE
from training.reporting.run_folder import published, read_runs


def test_charts_draw_the_recorded_numbers(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50, 80, 93])])
    for number, expected in ((0, [50, 80, 93]), (2, [7, 3.5, 7 / 3]), (5, [4096] * 3), (7, [0.5, 1, 1.5])):
        _, (axes,) = charts.figure(4, 3)
        charts.draw(axes, charts.CHARTS[number], [run], published(), PAGE)
        ours = [line for line in axes.get_lines() if line.get_color() == PAGE.series[0]]
        assert list(ours[0].get_ydata()) == pytest.approx(expected, rel=1e-6)
    _, (axes,) = charts.figure(4, 3)
    charts.draw(axes, charts.CHARTS[0], [run], published(), PAGE)
    reference = [line for line in axes.get_lines() if line.get_color() == PAGE.published]
    assert [max(line.get_ydata()) for line in reference] == [93.0179, 75.9179]
    assert reference[0].get_xdata()[-1] == 2.3657
    assert list(axes.get_lines()[-2].get_xdata()) == pytest.approx([0.1, 0.2, 0.3])
