"""Orderly stopping: a signal sets a flag, and all processes agree on it after a step."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from types import FrameType
from typing import cast

import torch
import torch.distributed as dist

from training.engine.distributed import World

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A terminal's Ctrl-C reaches a process twice: directly, and forwarded by the launcher.
ECHO_SECONDS = 1.0


class StopSignals:
    """Whether to stop or save after the current step; handles SIGNALS inside the `with` block."""

    def __init__(self, world: World, checkpoint_minutes: float, timeout_minutes: float) -> None:
        self.world = world
        self.stop = False
        self._first_signal = 0.0
        self._interval_s = checkpoint_minutes * 60
        self._saved = time.monotonic()
        self._handlers: dict[int, object] = {}
        # Processes agree over gloo, so that no GPU waits for it; a process that hangs times out here first.
        self._group: dist.ProcessGroup | None = None
        if world.ranks > 1:
            timeout = timedelta(minutes=timeout_minutes)
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))

    def __enter__(self) -> StopSignals:
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.stop and time.monotonic() - self._first_signal > ECHO_SECONDS:
            os._exit(128 + signal.SIGINT)
        if not self.stop:
            self._first_signal = time.monotonic()
        self.stop = True

    def poll(self) -> tuple[bool, bool]:
        """(stop, save), the same in all processes; every process must call it after every step."""
        due = self.world.is_main and time.monotonic() - self._saved >= self._interval_s
        flags = torch.tensor([int(self.stop), int(due)])
        if self._group is not None:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        stop, save = bool(flags[0]), bool(flags[1])
        return stop, save or stop

    def saved(self) -> None:
        """A checkpoint was written: the next is due after another interval."""
        self._saved = time.monotonic()

    def every_rank(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` of all processes, stacked in order of rank; CPU tensors of one shape."""
        if self._group is None:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.world.ranks)]
        dist.all_gather(gathered, values, group=self._group)
        return torch.stack(gathered)
