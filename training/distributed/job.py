"""One process of a job, from its start to its exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from data_tools.common import console
from data_tools.common.errors import UserError, print_error
from data_tools.common.options import OptionError
from training.config.run_config import RunConfig
from training.distributed.meeting import MeetingError
from training.distributed.stop_signals import StopSignals
from training.distributed.world import JobError, Preempted, World, world

logger = logging.getLogger(__name__)


def run_in_job(program: str, config: RunConfig, body: Callable[[World, StopSignals], None]) -> int:
    """Run ``body`` in this process; every process of the job calls it. Returns the exit status.

    An error that the user can fix is printed as one line, by the main process alone if all of them raise it, and by one
    of each machine if they cannot meet; so is a stop. Anything else is raised with its traceback.
    """
    console.set_up()
    try:
        with world(config.dist) as this, StopSignals(this, config.run.checkpoint_minutes) as signals:
            body(this, signals)
    except (OptionError, JobError, MeetingError) as error:
        place = "LOCAL_RANK" if isinstance(error, MeetingError) else "RANK"
        return print_error(program, error) if os.environ.get(place, "0") == "0" else error.status
    except UserError as error:
        status = print_error(program, error)
        if "RANK" in os.environ:  # the others wait for this process, so the launcher must see it fail
            sys.exit(status)
        return status
    except Preempted as stopped:
        logger.info("%s: %s", program, stopped)
        return stopped.status
    return 0
