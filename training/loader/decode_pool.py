"""Native threads that fill batches, image by image, in the order in which the batches were submitted."""

import os

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.native.library import LOAD, BatchRequest, NativePool
from training.loader.beton_reader import BetonReader, LoadError


class PendingBatch(BatchRequest):
    """A batch in the making: `crops` (CROP) of the `samples` of a beton into `images`, (batch, height, width, 3) uint8
    on the host. It keeps alive what the native threads read and write."""

    def __init__(
        self, beton: BetonReader, samples: NDArray[np.int64], crops: NDArray[np.void], images: torch.Tensor
    ) -> None:
        self.samples, self.images, self.rows = samples, images, beton.tasks(samples, crops)
        _, height, width, _ = images.shape
        super().__init__(
            kind=LOAD,
            tasks=self.rows.ctypes.data,
            out=images.data_ptr(),
            file=beton.file,
            items=len(samples),
            height=height,
            width=width,
            verify=beton.checksums,
        )

    @property
    def failure(self) -> tuple[int, str] | None:
        """(sample's number in the beton, what is wrong) of the first that failed. Valid when finished."""
        return None if self.failed < 0 else (int(self.samples[self.failed]), self.error.decode(errors="replace"))


class DecodePool(NativePool):
    """The threads of a loader."""

    def check_open(self) -> None:
        """RuntimeError once it is closed; LoadError in a process that was forked."""
        if self.is_forked:
            what = f"the loader was made in process {self.process}; its threads are not in process {os.getpid()}"
            raise LoadError(what, remedy="make the loader after the fork, in the process that uses it")
        if not self.close.alive:
            raise RuntimeError("the loader is closed")
