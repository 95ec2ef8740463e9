"""Processes: this one's rank, and sums over all of them. A single process needs none of it."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _broadcast_coalesced
from torch._inductor import config as inductor_config

from data_tools.common.errors import UserError
from data_tools.common.options import OptionError
from data_tools.common.resources import default_workers
from training.config.run_config import Dist
from training.distributed.meeting import meet

logger = logging.getLogger(__name__)
T = TypeVar("T")
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: saved, and the same command continues
FAILURE_GRACE_SECONDS = 2.0  # the launcher polls for failed processes several times within it
MESSAGE_BYTES = 250 << 20  # of one broadcast of tensors, as in DDP
MOST_COMPILE_WORKERS = 32  # of a process; torch's own limit


class JobError(UserError):
    """An error that every process of the job raises."""


class Preempted(Exception):
    """The run was asked to stop, by signal ``number``; ``saved`` says whether a checkpoint was written."""

    def __init__(self, message: str, number: int, saved: bool) -> None:
        super().__init__(message)
        self.status = EXIT_PREEMPTED if saved else 128 + number


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process: ``rank`` of ``ranks``, on this machine ``local_rank`` of ``local_ranks``; by default, alone."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    device: torch.device
    # Processes agree over gloo, so that no GPU waits for it; None if there is only this process.
    host_group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def use_cuda(options: Dist) -> bool:
    """Whether ``dist.device`` means GPUs here. OptionError if it asks for one and there is none."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            "cuda, but torch sees no GPU here", where="dist.device", remedy="--dist.device=cpu trains on the CPU"
        )
    return options.device != "cpu" and torch.cuda.is_available()


def on_cpu_for_want_of_gpus(options: Dist) -> str:
    """Why ``dist.device=auto`` means the CPU here; empty if it does not."""
    if options.device != "auto" or torch.cuda.is_available():
        return ""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"torch sees no GPU with CUDA_VISIBLE_DEVICES={visible}"
    return "torch sees no GPU" if torch.version.cuda or torch.version.hip else "torch was built without CUDA"


def processes_to_start(options: Dist) -> int:
    """``dist.processes``, by default one per visible GPU. OptionError for more processes than GPUs."""
    gpus = torch.cuda.device_count() if use_cuda(options) else 0
    if gpus and options.processes and options.processes > gpus:
        raise OptionError(
            f"{options.processes}, but there are {gpus} GPUs here",
            where="dist.processes",
            remedy=f"give at most {gpus}, or --dist.device=cpu",
        )
    return options.processes or gpus or 1


@contextlib.contextmanager
def world(options: Dist) -> Iterator[World]:
    """This process's world; if it has more than one process, their process group is open inside the block."""
    rank, ranks, local_rank, local_ranks = (int(os.environ.get(key, alone)) for key, alone in _SINGLE_PROCESS.items())
    _check_restarts()
    cuda = use_cuda(options)
    # SLURM may let each task see its own GPU alone.
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    this = World(rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks, device=device)
    if cuda:
        torch.cuda.set_device(device)
    elif this.is_main and (why := on_cpu_for_want_of_gpus(options)):
        logger.info("on the CPU: %s", why)
    limit_compile_workers(this.local_ranks)
    if this.ranks == 1:
        yield this
        return
    timeout = timedelta(minutes=options.timeout_minutes)
    own = str(torch.cuda.get_device_properties(device).uuid) if cuda else "cpu"
    store = meet(this.rank, this.ranks, this.local_rank, own, timeout)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=this.rank,
        world_size=this.ranks,
        timeout=timeout,
        device_id=device if cuda else None,
    )
    try:
        # A process that hangs times out in this group first.
        yield replace(this, host_group=cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout)))
    except (OptionError, JobError, Preempted):  # raised in all processes
        dist.destroy_process_group()
        raise
    except Exception as error:
        # Leave the group open: closing it would break other processes before the launcher knows of this error.
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # the connection to a process that failed first
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


def gather(value: T, world: World) -> list[T]:
    """``value`` of all processes, in order of rank: plain values or CPU tensors."""
    if world.host_group is None:
        return [value]
    values: list[Any] = [None] * world.ranks
    dist.all_gather_object(values, value, group=world.host_group)
    return values


def from_main(make: Callable[[], T], world: World) -> T:
    """What ``make`` returns in the main process, in every process; a UserError that it raises there is raised in all.

    The value must be plain, or CPU tensors.
    """
    outcome: list[Any] = [None, None]  # the value, the error
    if world.is_main:
        try:
            outcome[0] = make()
        except UserError as error:
            outcome[1] = error
    if world.host_group is not None:
        dist.broadcast_object_list(outcome, src=0, group=world.host_group)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def copy_from_main(tensors: Iterable[torch.Tensor], world: World) -> None:
    """Give every process the main one's values of ``tensors``."""
    own = [tensor.detach() for tensor in tensors]
    if own and world.ranks > 1:
        _broadcast_coalesced(dist.distributed_c10d._get_default_group(), own, MESSAGE_BYTES, 0)
