"""The configuration of a run: options, schedule and data sets."""

from training.config.run_config import RunConfig
from training.config.schedule import LrRamp, MomentumRamp, Phase, Schedule

__all__ = ["LrRamp", "MomentumRamp", "Phase", "RunConfig", "Schedule"]
