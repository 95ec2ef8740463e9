"""What a run is told: options, schedule, and the data sets that it names."""

from training.config.run_config import RunConfig
from training.config.schedule import Phase, Ramp, Schedule

__all__ = ["Phase", "Ramp", "RunConfig", "Schedule"]
