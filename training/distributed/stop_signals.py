"""Orderly stopping: a signal sets a flag, and all processes agree on it after a step."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import torch
import torch.distributed as dist

from training.distributed.world import World

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# A terminal's Ctrl-C reaches a process twice: directly, and forwarded by the launcher.
ECHO_SECONDS = 1.0

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def handling(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handle these signals inside the block, except those that were ignored at the start, as under ``nohup``.

    Once one has come, the handler stays: the process is about to end, and another one, as SLURM sends them, must not
    change its exit status. Python drops handlers before it ends: from then on, all but a second Ctrl-C are ignored.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, earlier in before.items() if earlier is not signal.SIG_IGN]
    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        handler(number, frame)

    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in taken:
            if not received:
                signal.signal(number, before[number])
            elif number != signal.SIGINT:
                atexit.register(signal.signal, number, signal.SIG_IGN)


class StopSignals:
    """Whether to stop or save after the current step; handles SIGNALS inside the `with` block."""

    def __init__(self, world: World, checkpoint_minutes: float) -> None:
        self.world = world
        self.number = 0  # of the signal that asks to stop, in whichever process it arrived; 0: none has
        self._received = 0  # the first in this process
        self._received_at = 0.0
        self._interval_s = checkpoint_minutes * 60
        self._saved = time.monotonic()
        self._handling = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        self._handling.enter_context(handling(SIGNALS, self._on_signal))
        return self

    def __exit__(self, *_: object) -> None:
        self._handling.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received and time.monotonic() - self._received_at > ECHO_SECONDS:
            os._exit(128 + signal.SIGINT)
        if not self._received:
            self._received, self._received_at = number, time.monotonic()

    def poll(self) -> tuple[bool, bool]:
        """(stop, save), the same in all processes; every process must call it after every step."""
        due = self.world.is_main and time.monotonic() - self._saved >= self._interval_s
        flags = torch.tensor([self._received, int(due)])
        if self.world.host_group is not None:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.world.host_group)
        self.number = int(flags[0])
        return self.number > 0, bool(flags[1]) or self.number > 0

    def saved(self) -> None:
        """A checkpoint was written: the next is due after another interval."""
        self._saved = time.monotonic()
