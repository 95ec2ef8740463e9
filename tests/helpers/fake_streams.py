"""Doubles of CUDA's streams, events and caching allocators, whose work runs late and in the worst order."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GARBAGE = -1


class Stream:
    """Work in order. Each item returns whether it could be done; one that cannot holds up those behind it."""

    def __init__(self, device: object = None) -> None:
        self.queue: deque[Callable[[], bool]] = deque()

    def add(self, work: Callable[[], object]) -> None:
        self.queue.append(lambda: work() is not False)

    def wait_event(self, event: Event) -> None:
        if event.recorded:  # as in CUDA: one that was not recorded holds up nothing
            self.add(lambda: event.done)

    def step(self) -> bool:
        """Do the next item, if it can be done."""
        done = bool(self.queue) and self.queue[0]()
        if done:
            self.queue.popleft()
        return done

    def run(self) -> None:
        """As far as it gets."""
        while self.step():
            pass


class Event:
    def __init__(self, gpu: FakeGpu | None = None) -> None:
        self.recorded, self.done, self._gpu = False, False, gpu

    def record(self, stream: Stream) -> None:
        self.recorded = True
        stream.add(lambda: setattr(self, "done", True))

    def synchronize(self) -> None:
        assert self._gpu is not None
        self._gpu.faults.append("the host waits for an event")


@dataclass(eq=False)
class Block:
    """Memory for one number, which stands for a batch."""

    home: object  # the stream that it was allocated on; None: the host
    pinned: bool = False
    value: int = GARBAGE
    users: list[Stream] = field(default_factory=list)  # streams that it must not be used again before
    pending: list[Event] = field(default_factory=list)


class Tensor:
    """What the code under test holds. Its block is free once nobody holds it, as in torch."""

    def __init__(self, gpu: FakeGpu, block: Block) -> None:
        self.gpu, self.block = gpu, block
        weakref.finalize(self, gpu.free, block)

    def fill(self, value: int) -> Tensor:
        self.block.value = value
        return self

    def pin_memory(self) -> Tensor:
        return Tensor(self.gpu, self.gpu.allocate(None, pinned=True)).fill(self.block.value)

    def record_stream(self, stream: Stream) -> None:
        self.block.users.append(stream)

    def to(self, device: object, non_blocking: bool = False) -> Tensor:
        stream, source = self.gpu.current, self.block
        if not (non_blocking and source.pinned):
            self.gpu.faults.append("the host waits for a copy")
        target = self.gpu.allocate(stream)
        source.users.append(stream)  # as the copy from pinned memory does
        stream.add(lambda: setattr(target, "value", source.value))
        return Tensor(self.gpu, target)


class FakeGpu:
    """``torch`` is what the code under test is to take for it; ``faults`` are what went wrong."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.default = self.current = Stream()
        self.blocks: list[Block] = []  # free, or free once their pending events are done
        self.torch = SimpleNamespace(
            empty=lambda *_, pin_memory=False, **__: Tensor(self, self.allocate(None, pinned=pin_memory)),
            uint8=None,
            device=object,
            Tensor=Tensor,
            cuda=SimpleNamespace(
                Stream=Stream, Event=lambda: Event(self), stream=self.on, current_stream=lambda _=None: self.current
            ),
        )

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def allocate(self, home: object, pinned: bool = False) -> Block:
        """A free block of the same kind if there is one: what was used longest ago, with what it held."""
        for block in self.blocks:
            if block.home is home and block.pinned == pinned and all(event.done for event in block.pending):
                self.blocks.remove(block)
                block.users, block.pending = [], []
                return block
        return Block(home, pinned)

    def free(self, block: Block) -> None:
        for stream in block.users:
            if stream is not block.home:  # later work of its own stream comes later in any case
                event = Event()
                event.record(stream)
                block.pending.append(event)
        self.blocks.append(block)

    def compute(self, images: Any, labels: Any, expected: int) -> None:
        """Queue a computation on a batch, which must be whole when it is read."""

        def read(images: Block = images.block, labels: Block = labels.block) -> None:
            for name, block in (("images", images), ("labels", labels)):
                if block.value != expected:
                    self.faults.append(f"batch {expected}: {name} are {block.value}")

        self.current.add(read)
