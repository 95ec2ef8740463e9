"""The configuration of a run: options, schedule and data sets."""

from training.config.run_config import RunConfig
from training.config.schedule import Phase, Ramp, Schedule

__all__ = ["Phase", "Ramp", "RunConfig", "Schedule"]
