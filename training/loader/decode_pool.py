"""Native threads that fill batches, image by image, in the order in which the batches were submitted."""

import ctypes
import os
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.native.library import BatchRequest, library
from training.loader.beton_reader import LoadError

WAIT_MILLISECONDS = 100  # after this long, Python looks whether it is to stop, even while a disk hangs


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be made: rows of TASK out of an open file, all to (height, width)."""

    file: int
    tasks: NDArray[np.void]
    height: int
    width: int
    samples: NDArray[np.int64]
    checksums: bool = False


@dataclass(slots=True)
class PendingBatch:
    """A batch in the making. Keeps alive what the native threads read and write."""

    request: Request
    images: torch.Tensor  # (batch, height, width, 3) uint8 on the host
    native: BatchRequest = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.native = BatchRequest(
            tasks=request.tasks.ctypes.data,
            out=self.images.data_ptr(),
            file=request.file,
            samples=len(request.tasks),
            height=request.height,
            width=request.width,
            verify=request.checksums,
        )

    @property
    def failure(self) -> tuple[int, str] | None:
        """(sample's number in the beton, what is wrong) of the first that failed. Valid when finished."""
        if self.native.failed < 0:
            return None
        return int(self.request.samples[self.native.failed]), self.native.error.decode(errors="replace")


class DecodePool:
    """`workers` native threads. Closing waits for the images at hand, a few milliseconds.

    A forked process has none of the threads, and their locks in whatever state they were: there the pool is not usable,
    and closing it leaves them alone.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers load nothing")
        self._handle = library().native_pool_new(workers)
        if not self._handle:
            raise RuntimeError(f"the system cannot start {workers} threads (see `ulimit -u`)")
        self._process = os.getpid()
        # Also at the interpreter's exit, while the memory that the threads write to is still there.
        self.close = weakref.finalize(self, _delete, self._handle, self._process)

    def submit(self, pending: PendingBatch) -> None:
        self.check_open()
        library().native_pool_submit(self._handle, ctypes.byref(pending.native))

    def finished(self, pending: PendingBatch, milliseconds: int = 0) -> bool:
        """Whether a batch is finished, after waiting for it up to this long; there is no other way to wait."""
        self.check_open()
        return bool(library().native_pool_wait(self._handle, ctypes.byref(pending.native), milliseconds))

    def check_open(self) -> None:
        """RuntimeError once it is closed; LoadError in a process that was forked."""
        if os.getpid() != self._process:
            what = f"the loader was made in process {self._process}; its threads are not in process {os.getpid()}"
            raise LoadError(what, remedy="make the loader after the fork, in the process that uses it")
        if not self.close.alive:
            raise RuntimeError("the loader is closed")

    def cancel(self, pending: PendingBatch) -> None:
        """Forget a batch; on return no thread touches it."""
        if self.close.alive and os.getpid() == self._process:
            library().native_pool_cancel(self._handle, ctypes.byref(pending.native))


def _delete(handle: int, process: int) -> None:
    if os.getpid() == process:
        library().native_pool_delete(handle)
