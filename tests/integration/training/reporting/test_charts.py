"""The charts of a run draw its numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import SESSION, run_folder

from training.config.schedule import Schedule
from training.reporting import charts
from training.reporting.plotting import LIGHT, SERIES
from training.reporting.run_folder import RunFolder, published, read_runs


def drawn(chart: charts.Chart, run: RunFolder, colour: str = SERIES[0]) -> list[tuple[list[float], list[float]]]:
    """x and y of each line of a chart in this colour."""
    _, (axes,) = charts.figure(4, 3)
    charts.draw(axes, chart, [run], published())
    return [(list(li.get_xdata()), list(li.get_ydata())) for li in axes.get_lines() if li.get_color() == colour]


def test_charts_draw_the_recorded_numbers(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50, 80, 93])])
    for number, expected in ((0, [50, 80, 93]), (2, [7, 3.5, 7 / 3]), (7, [0.5, 1, 1.5])):
        assert drawn(charts.CHARTS[number], run)[0][1] == pytest.approx(expected, rel=1e-6)
    reference = drawn(charts.CHARTS[0], run, LIGHT["published"])
    assert [max(y) for _, y in reference] == [93.0179, 75.9179]
    assert reference[0][0][-1] == 2.3657
    assert drawn(charts.CHARTS[0], run)[1][0] == pytest.approx([0.1, 0.2, 0.3])


def test_px_and_batch_step_at_the_boundaries_of_epochs(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50] * 14)])
    for number, before, after in ((4, 128, 224), (5, 4096, 1792)):
        ((x, y),) = drawn(charts.CHARTS[number], run)
        assert (x[0], y[0], x[-1], y[-1]) == (0, before, 14, after)
        assert [value for at, value in zip(x, y, strict=True) if at == 13] == [before, after]


def test_learning_rate_jumps_where_the_schedule_does(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50] * 15)])
    ((x, y),) = drawn(charts.CHARTS[3], run)
    # titan8: up to epoch 7, down to 13, there a jump, and two of the nine epochs from 0.4375 to 0.04375.
    assert x == [0, 7, 7, 13, 13, 15]
    assert y == pytest.approx([1, 2, 2, 0.25, 0.4375, 0.4375 - (0.4375 - 0.04375) * 2 / 9])


def test_learning_rate_is_as_curved_as_the_schedule(tmp_path: Path) -> None:
    phase = {"epochs": [0, 4], "px": 64, "batch_per_gpu": 8, "data": "160"}
    ramps = [{"epochs": [0, 4], "from": 1.0, "to": 0.0, "shape": "cosine"}]
    (run,) = read_runs([run_folder(tmp_path / "run", [50] * 2)])
    schedule = Schedule.model_validate({"phases": [phase | {"lr": ramps}]})
    ((x, y),) = drawn(charts.CHARTS[3], replace(run, schedule=schedule))
    assert (x[0], x[-1]) == (0, 2)
    assert y == pytest.approx([(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in x])
    assert len(y) > 9


def test_few_classes_have_top1_alone(tmp_path: Path) -> None:
    few = replace(SESSION, classes=25)
    (run,) = read_runs([run_folder(tmp_path / "few", [100, 100], [few], hours_an_epoch=0.005)])
    first = charts.charts_of([run])[0]
    ((x, y),) = drawn(first, run)
    assert (x, y) == (pytest.approx([18, 36]), [80, 80])  # seconds
    assert not drawn(first, run, LIGHT["published"])
    (enough,) = read_runs([run_folder(tmp_path / "enough", [90], [replace(SESSION, classes=26)])])
    assert charts.charts_of([run, enough]) == charts.CHARTS
