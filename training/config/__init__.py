"""What a run is told: options, schedule, and the data sets that it names."""

from training.config.run_config import RunConfig
from training.config.schedule import LrRamp, Phase, Schedule

__all__ = ["LrRamp", "Phase", "RunConfig", "Schedule"]
