"""Compiles the next phase's code while the last epoch of the current one trains, in a process of its own.

It fills the caches that Inductor and Triton keep on the disk, from which the next phase then takes its code.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch._inductor import config as inductor_config
from torch._inductor.output_code import CompiledFxGraph

from training.config.datasets import Datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.distributed.stop_signals import SIGNALS
from training.distributed.world import World, limit_compile_workers
from training.engine.state import TrainState, configure_torch

NICE = 19  # it gets what the training leaves of the cores
FREE_GPU_GIB = 2  # a process on a GPU needs half a GiB, and this one has the weights, their averages and a batch
# Not the modes that time kernels on the GPU, which trains meanwhile.
MODES = {"default", "reduce-overhead"}
_PR_SET_PDEATHSIG = 1


class CompiledAhead(Exception):
    """All code of the phase is compiled; it would run now."""


class CompileAhead:
    """At most one process that compiles. It never makes a phase wait, and its errors are notes."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._process: BaseProcess | None = None
        self._result: Connection | None = None

    def begin(self, phase: Phase) -> None:
        """Start to compile the step of ``phase``, where steps are compiled and a process has room on the GPU."""
        mode, world = self._state.step.compile_mode, self._state.world
        caches = inductor_config.fx_graph_cache and not inductor_config.force_disable_caches
        if mode not in MODES or not caches or not _has_room(world.device):
            return
        context = multiprocessing.get_context("spawn")
        self._result, sender = context.Pipe(duplex=False)
        arguments = self._state.config, self._state.datasets, world, phase, sender
        self._process = context.Process(target=_compile, args=arguments, name="compile-ahead", daemon=True)
        self._process.start()
        sender.close()

    def end(self) -> str:
        """End the process, finished or not; what it has made stays in the caches. Returns how far it got, in words;
        empty if there was none."""
        if self._process is None or self._result is None:
            return ""
        try:
            outcome = self._result.recv() if self._result.poll() else "was not fully compiled ahead"
        except EOFError:
            outcome = "ended without a result"
        # By SIGKILL, as it ignores what asks the run to stop.
        self._process.kill()
        self._process.join()
        self._result.close()
        self._process = self._result = None
        return str(outcome)


def _has_room(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] >= FREE_GPU_GIB * 2**30


def _compile(config: RunConfig, datasets: Datasets, world: World, phase: Phase, result: Connection) -> None:
    """The process: compile the step of ``phase`` as the rank of ``world`` will, without running it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid != os.getppid():
        return  # it has ended while this process started
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are meant for the training, which ends this process
    os.nice(NICE)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    began = time.perf_counter()
    try:
        compile_phase(config, datasets, world, phase)
    except Exception as error:  # whatever it is, the phase can be compiled without
        reason = " ".join(str(error).split())[:200]
        result.send(f"could not be compiled ahead ({type(error).__name__}: {reason})")
    else:
        result.send(f"was compiled ahead in {time.perf_counter() - began:.0f} s")


def compile_phase(config: RunConfig, datasets: Datasets, world: World, phase: Phase) -> None:
    """Fill the caches on the disk with the code of ``phase`` for ``world``. Call it in a process of its own, since it
    changes what torch does there."""
    configure_torch(config.run)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    limit_compile_workers(world.local_ranks)
    if world.ranks > 1:  # DDP cuts the graph at its buckets, whoever the other processes are
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", store=FakeStore(), rank=world.rank, world_size=world.ranks)
    state = TrainState(config, datasets, world)
    CompiledFxGraph.__call__ = _stop  # type: ignore[method-assign, assignment]
    batch = phase.batch_per_gpu * state.accumulation_steps
    try:
        state.step.prepare(phase.px, batch, world.device)
    except CompiledAhead:
        return
    raise RuntimeError("nothing was compiled")


def _stop(*_: Any) -> None:
    raise CompiledAhead
