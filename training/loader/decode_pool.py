"""Native threads that fill batches, and the iterator that keeps them busy and hands the batches out in order.

There is no Python thread and no queue: batches are submitted a few ahead, and `next()` waits for the oldest. So an
error is raised where the batch is asked for, and leaving a loop early leaves nothing behind.
"""

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.native.library import BatchRequest, library
from training.loader.device_transfer import HostBuffers

BATCHES_AHEAD = 3
WAIT_MILLISECONDS = 100  # between these Python looks at signals, so Ctrl-C works while a disk hangs


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be made: rows of TASK out of an open file, all to (height, width)."""

    file: int
    tasks: NDArray[np.void]
    height: int
    width: int
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]
    verify: bool = False


@dataclass(slots=True)
class PendingBatch:
    """A batch in the making. Keeps alive what the native threads read and write."""

    request: Request
    images: torch.Tensor  # (batch, height, width, 3) uint8 on the host
    native: BatchRequest = field(init=False)
    copied: Any = None  # what the copies' `start` gave

    def __post_init__(self) -> None:
        request = self.request
        self.native = BatchRequest(
            tasks=request.tasks.ctypes.data,
            out=self.images.data_ptr(),
            file=request.file,
            samples=len(request.tasks),
            height=request.height,
            width=request.width,
            verify=request.verify,
        )

    @property
    def failure(self) -> tuple[int, str] | None:
        """(sample's number in the beton, what is wrong) of the first that failed. Valid when finished."""
        if self.native.failed < 0:
            return None
        return int(self.request.samples[self.native.failed]), self.native.error.decode(errors="replace")


class DecodePool:
    """`workers` native threads. Closing waits for the images at hand, a few milliseconds."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers load nothing")
        self._handle = library().native_pool_new(workers)
        if not self._handle:
            raise RuntimeError(f"the system gives no {workers} threads (see `ulimit -u`)")
        # Also at the interpreter's exit, while the memory that the threads write to is still there.
        self.close = weakref.finalize(self, library().native_pool_delete, self._handle)

    def submit(self, pending: PendingBatch) -> None:
        self._check_open()
        library().native_pool_submit(self._handle, ctypes.byref(pending.native))

    def finished(self, pending: PendingBatch, milliseconds: int = 0) -> bool:
        """Whether a batch is made, waiting for it so long; there is no other way to wait."""
        self._check_open()
        return bool(library().native_pool_wait(self._handle, ctypes.byref(pending.native), milliseconds))

    def _check_open(self) -> None:
        if not self.close.alive:
            raise RuntimeError("the loader is closed")

    def cancel(self, pending: PendingBatch) -> None:
        """Forget a batch; on return no thread touches it."""
        if self.close.alive:
            library().native_pool_cancel(self._handle, ctypes.byref(pending.native))


class Batches(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """The batches of `requests` in order, as (images, labels) on `device`; made `BATCHES_AHEAD` ahead.

    images: (batch, 3, height, width) uint8 in channels-last memory. labels: (batch,) int64. A sample that cannot
    be decoded raises what `explain(sample, reason)` returns, and its batch is never handed out.
    """

    def __init__(
        self,
        pool: DecodePool,
        buffers: HostBuffers,
        copies: Any,
        requests: Iterator[Request],
        explain: Callable[[int, str], Exception],
    ) -> None:
        self._pool, self._buffers, self._copies = pool, buffers, copies
        self._requests, self._explain = requests, explain
        self._ahead: deque[PendingBatch] = deque()
        self._submit()

    def _submit(self) -> None:
        while len(self._ahead) < BATCHES_AHEAD:
            request = next(self._requests, None)
            if request is None:
                return
            pending = PendingBatch(request, self._buffers.take(len(request.tasks), request.height, request.width))
            self._pool.submit(pending)
            self._ahead.append(pending)

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._ahead:
            raise StopIteration
        pending = self._ahead[0]
        while not self._pool.finished(pending, WAIT_MILLISECONDS):
            pass
        self._ahead.popleft()
        if pending.failure is not None:
            self.close()
            raise self._explain(*pending.failure)
        self._submit()
        self._start_copy(pending)
        for later in self._ahead:  # those that are ready follow at once: a later call finds them on the device
            if not self._pool.finished(later) or later.failure is not None:
                break
            self._start_copy(later)
        images, labels = self._copies.hand_over(pending.copied)
        return images.permute(0, 3, 1, 2), labels

    def _start_copy(self, pending: PendingBatch) -> None:
        if pending.copied is None:
            pending.copied = self._copies.start(pending.images, torch.from_numpy(pending.request.labels))

    def close(self) -> None:
        """Drop what has not been handed out. Idempotent."""
        self._requests = iter(())
        while self._ahead:
            self._pool.cancel(self._ahead.pop())

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
