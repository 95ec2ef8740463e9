"""Processes: this one's rank, and sums over all of them. A single process needs none of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch._inductor import config as inductor_config

from data_tools.common.options import OptionError
from data_tools.common.resources import default_workers
from training.config.run_config import Dist

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: saved, and the same command continues
FAILURE_GRACE_SECONDS = 2.0  # the launcher polls for failed processes several times within it
MOST_COMPILE_WORKERS = 32  # of a process; torch's own limit


class Preempted(Exception):
    """The run was asked to stop, by signal ``number``; ``saved`` says whether a checkpoint was written."""

    def __init__(self, message: str, number: int, saved: bool) -> None:
        super().__init__(message)
        self.status = EXIT_PREEMPTED if saved else 128 + number


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
    """How many processes the job has: those of torchrun or SLURM, or those that this one will start."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else processes_to_start(options)


@contextlib.contextmanager
def world(options: Dist) -> Iterator[World]:
    """This process's world; if it has more than one process, their process group is open inside the block."""
    environment = {key: int(os.environ.get(key, default)) for key, default in _SINGLE_PROCESS.items()}
    _check_restarts()
    cuda = use_cuda(options)
    local_rank = environment["LOCAL_RANK"]
    # SLURM may let each task see its own GPU alone.
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    this = World(
        rank=environment["RANK"],
        ranks=environment["WORLD_SIZE"],
        local_rank=local_rank,
        local_ranks=environment["LOCAL_WORLD_SIZE"],
        device=device,
    )
    if cuda:
        torch.cuda.set_device(device)
    limit_compile_workers(this.local_ranks)
    if this.ranks == 1:
        yield this
        return
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


def limit_compile_workers(local_ranks: int) -> None:
    """Share the cores for torch.compile among ``local_ranks`` processes, unless TORCHINDUCTOR_COMPILE_THREADS is set.

    Each would start up to 32 processes for it, one for every core of the machine.
    """
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        inductor_config.compile_threads = min(MOST_COMPILE_WORKERS, default_workers(local_ranks))


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


def max_over_ranks(value: torch.Tensor, world: World) -> torch.Tensor:
    """The largest ``value`` of all processes, elementwise; every process gets it."""
    if world.ranks > 1:
        value = value.clone()
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def share_buffers(model: nn.Module, world: World) -> None:
    """Give every process the main one's buffers, in one message for each dtype.

    BatchNorm statistics are local while training, as published; for validation all processes need the same model.
    """
    if world.ranks == 1:
        return
    for dtype in dict.fromkeys(buffer.dtype for buffer in model.buffers()):
        buffers = [buffer for buffer in model.buffers() if buffer.dtype == dtype]
        message = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.broadcast(message, src=0)
        values = message.split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [value.view_as(buffer) for value, buffer in zip(values, buffers, strict=True)])
