"""The rate that an estimate is made from, measured on this machine."""

from __future__ import annotations

from pathlib import Path

from data_tools.common.options import parse
from training import estimate
from training.config.run_config import RunConfig

ROOT = Path(__file__).parents[3]


def test_rate_is_measured_on_this_machine() -> None:
    argv = ["--config-file", str(ROOT / "rn50_configs/cpu_demo.yaml")]
    config = parse(RunConfig, argv, prog="test")
    phase = config.schedule.build().phases[0]
    assert estimate.measured_rate(config, phase, steps=1) > 0
