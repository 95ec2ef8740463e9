"""Native threads that fill batches, image by image, in the order in which the batches were submitted."""

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.native.library import LOAD, BatchRequest, NativePool
from training.loader.beton_reader import LoadError


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
            kind=LOAD,
            tasks=request.tasks.ctypes.data,
            out=self.images.data_ptr(),
            file=request.file,
            items=len(request.tasks),
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


class DecodePool(NativePool):
    """The threads of a loader."""

    def check_open(self) -> None:
        """RuntimeError once it is closed; LoadError in a process that was forked."""
        if self.is_forked:
            what = f"the loader was made in process {self.process}; its threads are not in process {os.getpid()}"
            raise LoadError(what, remedy="make the loader after the fork, in the process that uses it")
        if not self.close.alive:
            raise RuntimeError("the loader is closed")
