"""Runs a program in as many processes as it needs, in this one or in one for each GPU, up to its exit status."""

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from data_tools.common import console
from data_tools.common.errors import MISTAKE, UserError, print_error
from data_tools.common.options import OptionError
from data_tools.common.resources import default_workers
from data_tools.common.runtime import open_standard_streams
from training.config.run_config import Dist, RunConfig
from training.distributed.meeting import MeetingError
from training.distributed.stop_signals import SIGNALS, StopSignals, handling
from training.distributed.world import JobError, Preempted, World, processes_to_start, world

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
TORCHS_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")


def launch(main: Callable[..., int], options: Dist, *arguments: Any) -> int:
    """Run ``main(*arguments)`` in as many processes as ``options`` ask for; returns its exit status.

    ``main`` must be importable by name. A single process is this one; in a job of torchrun or SLURM (RANK is set) this
    is already one of the processes; otherwise torch's elastic launcher starts them.
    """
    if "RANK" in os.environ:
        return _run_recorded(main, *arguments)
    count = processes_to_start(options)
    if count == 1:
        return main(*arguments)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(default_workers(count)))
    # The processes begin as `python -c`, which looks for every module in the current folder first.
    os.environ["PYTHONSAFEPATH"] = "1"
    launcher = elastic_launch(
        LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            # Not every /etc/hosts has localhost.
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.2,
            # Its own handlers would stop watching the processes, and kill them after 30 s, saved or not.
            signals_to_handle="SIGUSR2",
        ),
        _run_launched,
    )
    # A signal to the whole group, as from Ctrl-\, must not end the process that keeps track of the others' semaphores.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    resource_tracker.ensure_running()  # it keeps the mask
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with forwarded_signals() as received:
        try:
            statuses: dict[int, int] = launcher(main, *arguments)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode == MISTAKE:  # the process has printed it
                return MISTAKE
            for number in received:
                if failure.exitcode in (-number, 128 + number):
                    console.show(f"stopped by {signal.Signals(number).name}; nothing was saved", "stderr")
                    return 128 + number
            console.show(f"process {rank} failed first, with:\n{_traceback(failure.message)}", "stderr")
            return 1
    return max(statuses.values())


@contextlib.contextmanager
def forwarded_signals() -> Iterator[list[int]]:
    """Pass SIGNALS on to the processes, which save and end by themselves. The numbers received so far are yielded."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # To end by a signal is no failure, of which torch logs every process's traceback.
        for name in TORCHS_LOGGERS:
            logging.getLogger(name).disabled = True
        if not pass_on(number):  # they start only now
            threading.Thread(target=wait_to_pass_on, args=(number,), daemon=True).start()

    def pass_on(number: int) -> bool:
        processes = multiprocessing.active_children()
        for process in processes:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        return bool(processes)

    def wait_to_pass_on(number: int) -> None:
        while not pass_on(number):
            time.sleep(0.05)

    with handling(SIGNALS, forward):
        yield received


def _traceback(message: Any) -> str:
    """The traceback in the launcher's record of an error, or its line about a signal."""
    if isinstance(message, dict):
        return str(message.get("extraInfo", {}).get("py_callstack") or message.get("message"))
    return str(message)


def _run_launched(main: Callable[..., int], *arguments: Any) -> int:
    """Run ``main`` in a process that this launcher has started, which must not outlive it, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return _run_recorded(main, *arguments)


def _run_recorded(main: Callable[..., int], *arguments: Any) -> int:
    """Run ``main`` in a process of the launcher, which gets the traceback if it raises."""
    from torch.distributed.elastic.multiprocessing.errors import record

    open_standard_streams()
    return record(main)(*arguments) or 0


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
