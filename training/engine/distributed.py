"""Processes: launching them, this one's rank, and sums over all of them. A single process needs none of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from data_tools.common.errors import MISTAKE, open_standard_streams
from data_tools.common.options import OptionError
from training.config.run_config import Dist

C = TypeVar("C")
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the same command continues
FAILURE_GRACE_SECONDS = 2.0  # the launcher polls for failed processes several times within it
_PR_SET_PDEATHSIG = 1


class Preempted(Exception):
    """The run was asked to stop; a checkpoint is written and the same command continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among all: ``rank`` of ``ranks``, ``local_rank`` of ``local_ranks`` on this machine."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def use_cuda(options: Dist) -> bool:
    """Whether ``dist.device`` means GPUs here. OptionError if it asks for one and there is none."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            "cuda, but torch sees no GPU here", where="dist.device", remedy="dist.device=cpu trains on the CPU"
        )
    return options.device != "cpu" and torch.cuda.is_available()


def processes_to_start(options: Dist) -> int:
    """``dist.processes``, by default one per visible GPU. OptionError for more processes than GPUs."""
    gpus = torch.cuda.device_count() if use_cuda(options) else 0
    if gpus and options.processes and options.processes > gpus:
        raise OptionError(
            f"{options.processes}, but there are {gpus} GPUs here",
            where="dist.processes",
            remedy=f"give at most {gpus}, or dist.device=cpu",
        )
    return options.processes or gpus or 1


def ranks_of_job(options: Dist) -> int:
    """How many processes the job has: those that torchrun started, or those that :func:`launch` will start."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else processes_to_start(options)


def accumulation_steps(options: Dist, ranks: int) -> int:
    """Batches that each of ``ranks`` processes accumulates for ``dist.emulate_gpus``."""
    if options.emulate_gpus is None:
        return 1
    if options.emulate_gpus % ranks:
        raise OptionError(
            f"{options.emulate_gpus} is no multiple of the {ranks} processes at work", where="dist.emulate_gpus"
        )
    return options.emulate_gpus // ranks


def launch(main: Callable[[C], int], config: C, options: Dist) -> int:
    """Run ``main(config)`` in as many processes as ``options`` ask for; returns its exit status.

    ``main`` must be importable by name. A single process is this one; under torchrun (RANK is set) this is already one
    of the processes; otherwise torch's elastic launcher starts them.
    """
    if "RANK" in os.environ:
        return _run_recorded(main, config)
    count = processes_to_start(options)
    if count == 1:
        return main(config)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher forwards SIGTERM to its processes; SIGUSR1, SLURM's warning, must do the same.
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))

    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    # The processes begin as `python -c`, which looks for every module in the current folder first.
    os.environ["PYTHONSAFEPATH"] = "1"
    launcher = elastic_launch(
        LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.2,
        ),
        _run_recorded,
    )
    try:
        statuses: dict[int, int] = launcher(main, config)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode == MISTAKE:  # the process has printed it
            return MISTAKE
        print(f"process {rank} failed first, with:\n{_traceback(failure.message)}", file=sys.stderr)
        return 1
    except SignalException:
        return EXIT_PREEMPTED
    return max(statuses.values())


def _traceback(message: Any) -> str:
    """The traceback in the launcher's record of an error, or its line about a signal."""
    if isinstance(message, dict):
        return str(message.get("extraInfo", {}).get("py_callstack") or message.get("message"))
    return str(message)


def _run_recorded(main: Callable[[C], int], config: C) -> int:
    """Run ``main`` in a process of the launcher, which gets the traceback if it raises."""
    from torch.distributed.elastic.multiprocessing.errors import record

    open_standard_streams()
    return record(main)(config) or 0


@contextlib.contextmanager
def world(options: Dist) -> Iterator[World]:
    """This process's world; if it has more than one process, their process group is open inside the block."""
    environment = {key: int(os.environ.get(key, default)) for key, default in _SINGLE_PROCESS.items()}
    _check_restarts()
    cuda = use_cuda(options)
    local_rank = environment["LOCAL_RANK"]
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    this = World(
        rank=environment["RANK"],
        ranks=environment["WORLD_SIZE"],
        local_rank=local_rank,
        local_ranks=environment["LOCAL_WORLD_SIZE"],
        device=device,
    )
    if cuda:
        torch.cuda.set_device(device)
    if this.ranks == 1:
        yield this
        return
    # The process must not outlive its launcher, however that ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        timeout=timedelta(minutes=options.timeout_minutes),
        device_id=device if cuda else None,
    )
    try:
        yield this
    except (OptionError, Preempted):  # raised in all processes
        dist.destroy_process_group()
        raise
    except Exception as error:
        # Leave the group open: closing it would break other processes before the launcher knows of this error.
        if _is_consequence(error):
            time.sleep(FAILURE_GRACE_SECONDS)
        raise
    else:
        dist.destroy_process_group()


def _check_restarts() -> None:
    """OptionError if torchrun would restart processes with the store of the previous attempt.

    Its c10d rendezvous keeps one store for all attempts and adds no prefix, so a restarted process may read the old
    address of another one and wait for it until the timeout.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise OptionError(
            "torchrun --max-restarts: attempts would mix up each other's addresses",
            remedy="start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment",
        )


def _is_consequence(error: Exception) -> bool:
    """Whether this process only lost its connection to one that failed first."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


_SINGLE_PROCESS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def sum_over_ranks(counts: torch.Tensor, world: World) -> torch.Tensor:
    """``counts`` summed elementwise over all processes, in place; every process gets the sum."""
    if world.ranks > 1:
        dist.all_reduce(counts)
    return counts


def share_buffers(model: nn.Module, world: World) -> None:
    """Give every process the main one's buffers.

    BatchNorm statistics are local while training, as published; for validation all processes need the same model.
    """
    if world.ranks > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
