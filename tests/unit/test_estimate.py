"""Predicted hours against the published run and against numbers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.common.options import parse
from training import estimate
from training.config.run_config import RunConfig
from training.config.schedule import Schedule

ROOT = Path(__file__).parents[2]


def titan8() -> Schedule:
    argv = ["--config-file", str(ROOT / "rn50_configs/titan8.yaml")]
    return parse(RunConfig, argv, prog="test").schedule.parsed


def test_published_rates_predict_the_published_hours() -> None:
    times = estimate.card_times(titan8(), estimate.CARDS["titan8-run"], 8, 1_281_167, 50_000)
    assert estimate.hours_after(times, 27) == pytest.approx(2.3657, rel=0.03)
    # The published table's own marks at the ends of the first two phases.
    assert estimate.hours_after(times, 13) == pytest.approx(0.5174, rel=0.03)
    assert estimate.hours_after(times, 25) == pytest.approx(1.8957, rel=0.03)


def test_by_hand() -> None:
    card = estimate.Card(rates={128: 100.0}, source="none")
    times = estimate.card_times(titan8(), card, 8, 4096, 300)
    # One batch of 4,096 and 300 / 3 validation images an epoch, 13 epochs, 800 images a second.
    assert times[0].seconds == pytest.approx(13 * (4096 + 100) / 800)
    assert times[1].images_per_s_per_gpu == pytest.approx(100 * (128 / 224) ** 2)
    assert estimate.hours_after(times, 0) == 0
    assert estimate.hours_after(times, 99) == pytest.approx(sum(t.seconds for t in times) / 3600)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "rn50_configs/titan8.yaml")
    assert estimate.main(["--config-file", recipe, "--gpu", "h200", "--gpus", "8", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    assert "NVIDIA's examples" in printed
    assert "at 2 per GPU-hour" in printed
    assert estimate.main(["--config-file", str(ROOT / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_measured_on_this_machine() -> None:
    argv = ["--config-file", str(ROOT / "rn50_configs/cpu_demo.yaml")]
    config = parse(RunConfig, argv, prog="test")
    phase = config.schedule.parsed.phases[0]
    assert estimate.measured_rate(config, phase, steps=1) > 0
