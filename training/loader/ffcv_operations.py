"""Operations for FFCV's Loader: the project's crops and decoding, as in docs/FROM_PYTHON.md.

`training.loader.TrainLoader` is such a Loader, with the order, the iterator and the way to the device.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.state import State
from numpy.typing import NDArray

from data_tools.common.resources import default_workers
from data_tools.native.library import LOAD, WAIT_MILLISECONDS, BatchRequest, NativePool
from training.loader.beton_reader import BetonReader, LoadError, not_copied
from training.loader.crops import CentreCrops, RandomCrops
from training.loader.device_transfer import HostBuffers

Samples = NDArray[np.int64]
LOADED = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


class Labels(IntDecoder):
    """The labels of a batch, (n,) int64, in memory of their own: FFCV's would be used again while a batch is in use."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return replace(previous_state, jit_mode=True, shape=(), dtype=self.dtype), None

    def generate_code(self) -> Callable[..., Any]:
        return lambda batch_indices, destination, metadata, storage_state: metadata[batch_indices]


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


class DecodeBatch(SimpleRGBImageDecoder):
    """Reads, decodes, crops, resizes and flips a whole batch by native threads; gives (n, height, width, 3) uint8.

    A sample that cannot be decoded, or whose bytes have another checksum, is an error that names it. FFCV runs the
    batches one after another; with `submit` the threads begin one before FFCV asks for it, so that they never wait.
    """

    __reduce_ex__ = not_copied

    def __init__(
        self,
        beton: BetonReader | Path | str,
        crops: RandomCrops | CentreCrops,
        *,
        workers: int | None = None,
        pinned: bool = False,
    ) -> None:
        super().__init__()
        self._beton = beton if isinstance(beton, BetonReader) else BetonReader(Path(beton), checksums=True)
        self._crops = crops
        self._pool = NativePool(default_workers(1) if workers is None else workers)
        self._buffers = HostBuffers(pinned=pinned)
        self._pending: deque[PendingBatch] = deque()
        self.error: BaseException | None = None  # of the last batch
        # FFCV compiles its decoders by numba, and what is compiled calls Python through this.
        self._loaded = LOADED(self._load)

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; not while one is being loaded."""
        self._crops.epoch = epoch

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self._crops.px, self._crops.px, 3), np.dtype("u1")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        loaded = self._loaded

        def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            samples = batch_indices.astype(np.int64)
            images = destination[: len(samples)]
            if not loaded(samples.ctypes.data, len(samples), images.ctypes.data):
                raise ValueError("a sample of the beton cannot be decoded")
            return images

        return decode

    def submit(self, samples: Samples) -> NDArray[np.uint8]:
        """Begin the batch of these samples in memory of its own, and return that. FFCV must get it as this decoder's
        memory, and ask for the batches in the same order."""
        height, width, crops = self._crops_of(samples)
        images = self._buffers.allocate(len(samples), height, width)
        self._begin(samples, crops, images)
        memory: NDArray[np.uint8] = images.numpy()
        return memory

    def _crops_of(self, samples: Samples) -> tuple[int, int, NDArray[np.void]]:
        return self._crops.of(samples, self._beton.widths[samples], self._beton.heights[samples])

    def _begin(self, samples: Samples, crops: NDArray[np.void], images: torch.Tensor) -> None:
        self.check_open()
        pending = PendingBatch(self._beton, samples, crops, images)
        self._pool.submit(pending)
        self._pending.append(pending)

    def _load(self, address: int, count: int, out: int) -> int:
        """Called from compiled code, which no exception may reach: whether the batch is in memory at `out`."""
        try:
            if not self._pending or self._pending[0].images.data_ptr() != out:
                self.cancel()
                samples = np.array(_array_at(address, count, ctypes.c_int64))
                height, width, crops = self._crops_of(samples)
                images = torch.from_numpy(_array_at(out, count * height * width * 3, ctypes.c_uint8))
                self._begin(samples, crops, images.view(count, height, width, 3))
            pending = self._pending[0]
            while not self._pool.finished(pending, WAIT_MILLISECONDS):
                pass
            self._pending.popleft()
            self.error = None if pending.failure is None else self._beton.load_error(*pending.failure)
        except BaseException as error:  # Ctrl-C, too
            self.error = error
        return int(self.error is None)

    def is_ready(self) -> bool:
        """Whether the first of the batches that were submitted is loaded, or has failed."""
        return self._pool.finished(self._pending[0])

    def check_open(self) -> None:
        """RuntimeError once it is closed; LoadError in a process that was forked."""
        if self._pool.is_forked:
            what = f"the loader was made in process {self._pool.process}; its threads are not in this one"
            raise LoadError(what, remedy="make the loader after the fork, in the process that uses it")
        self._pool.check_open()

    def cancel(self) -> None:
        """Forget what was submitted; on return no thread touches it."""
        while self._pending:
            self._pool.cancel(self._pending.pop())

    def close(self) -> None:
        """End the threads and close the file. Idempotent."""
        self.cancel()
        self._pool.close()
        self._beton.close()


def _array_at(address: int, count: int, kind: Any) -> NDArray[Any]:
    """Memory that somebody else keeps, as an array."""
    array: NDArray[Any] = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (count,))
    return array


def checked(loader: Loader) -> Iterator[Any]:
    """The batches of a stock Loader; LoadError when its thread has died, for which FFCV would wait forever."""
    batches = iter(loader)
    try:
        while True:
            while batches.output_queue.empty() and batches.is_alive():
                batches.join(0.002)
            if batches.output_queue.empty():
                what, remedy = "FFCV's thread died (its traceback is above)", "a damaged sample can cause this"
                raise LoadError(what, where=loader.fname, remedy=remedy)
            try:
                yield next(batches)
            except StopIteration:
                return
    finally:
        batches.close()
