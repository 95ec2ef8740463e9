"""Operations for FFCV's Loader: the project's crops and decoding, and FFCV's own augmentations with keyed randomness.

    decode = DecodeBatch.random_crops("data/beton/train_160.beton", px=128, seed=0)
    pipelines = {"image": [decode, Cutout(8), ToTensor(), ToTorchImage()]}
    loader = Loader("data/beton/train_160.beton", pipelines=pipelines, ...)
    for epoch in range(epochs):
        decode.set_epoch(epoch)
        for images, labels in checked(loader):

`training.loader.TrainLoader` is such a Loader, with the order, the iterator and the way to the device.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numba
import numpy as np
import torch
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from numpy.typing import NDArray

from data_tools.common.options import OptionError
from data_tools.common.resources import default_workers
from data_tools.native.library import WAIT_MILLISECONDS, library
from training.loader.beton_reader import BetonReader, LoadError
from training.loader.crops import CentreCrops, CropRule, RandomCrops
from training.loader.decode_pool import DecodePool, PendingBatch, Request
from training.loader.device_transfer import HostBuffers

Samples = NDArray[np.int64]
LOADED = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


class Labels(IntDecoder):
    """The labels of a batch, (n,) int64, in memory of their own: FFCV's would be used again while a batch is in use."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return replace(previous_state, jit_mode=True, shape=(), dtype=self.dtype), None

    def generate_code(self) -> Callable[..., Any]:
        return lambda batch_indices, destination, metadata, storage_state: metadata[batch_indices]


class DecodeBatch(SimpleRGBImageDecoder):
    """Reads, decodes, crops, resizes and flips a whole batch by native threads; gives (n, height, width, 3) uint8.

    A sample that cannot be decoded, or whose bytes have another checksum, is an error that names it. FFCV runs the
    batches one after another; with `submit` the threads begin one before FFCV asks for it, so that they never wait.
    """

    def __init__(
        self, beton: BetonReader, crops: RandomCrops | CentreCrops, *, workers: int | None = None, pinned: bool = False
    ) -> None:
        super().__init__()
        self._beton, self._crops = beton, crops
        self._pool = DecodePool(default_workers(1) if workers is None else workers)
        self._buffers = HostBuffers(pinned=pinned)
        self._pending: deque[PendingBatch] = deque()
        self.error: Exception | None = None  # of the last batch
        # FFCV compiles its decoders by numba, and what is compiled calls Python through this.
        self._loaded = LOADED(self._load)

    @classmethod
    def random_crops(
        cls, path: Path | str, *, px: int, min_scale: float = 0.08, seed: int = 0, workers: int | None = None
    ) -> Self:
        """torchvision's RandomResizedCrop and a flip, keyed on (seed, epoch, sample)."""
        crops = RandomCrops(px=px, min_scale=min_scale, seed=seed)
        return cls(BetonReader(Path(path), checksums=True), crops, workers=workers)

    @classmethod
    def centre_crops(cls, path: Path | str, *, px: int, workers: int | None = None) -> Self:
        """Resize(int(px * 1.14)) and a centre crop of px."""
        return cls(BetonReader(Path(path), checksums=True), CentreCrops(px=px), workers=workers)

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
        _, height, width, _ = images.shape
        tasks = self._beton.tasks(samples, crops)
        request = Request(self._beton.file, tasks, height, width, samples, self._beton.checksums)
        pending = PendingBatch(request, images)
        self._pool.submit(pending.native)
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
            while not self._pool.finished(pending.native, WAIT_MILLISECONDS):
                pass
            self._pending.popleft()
            self.error = None if pending.failure is None else self._beton.load_error(*pending.failure)
        except Exception as error:
            self.error = error
        return int(self.error is None)

    def check_open(self) -> None:
        """RuntimeError once it is closed."""
        self._pool.check_open()

    def cancel(self) -> None:
        """Forget what was submitted; on return no thread touches it."""
        while self._pending:
            self._pool.cancel(self._pending.pop().native)

    def close(self) -> None:
        """End the threads and close the file. Idempotent."""
        self.cancel()
        self._pool.close()
        self._beton.close()


def _array_at(address: int, count: int, kind: Any) -> NDArray[Any]:
    """Memory that somebody else keeps, as an array."""
    array: NDArray[Any] = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (count,))
    return array


class KeyedAugmentation(Operation):
    """An Operation of `ffcv.transforms` on single images, whose randomness depends on (seed, epoch, sample) alone.

    FFCV's Operations draw from numba's generators, one a thread, which no seed reaches. Here each image is seeded anew
    before the Operation sees it (4 us), so the result is the same for any number of threads, processes and any batch.
    """

    def __init__(self, operation: Operation, seed: int) -> None:
        super().__init__()
        self._operation = operation
        self._native = CropRule(seed=seed, epoch=0, min_scale=1.0).native()

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; not while one is being loaded."""
        self._native.epoch = epoch

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery | None]:
        state, memory = self._operation.declare_state_and_memory(previous_state)
        kept = [(each.shape, each.dtype, each.device) for each in (previous_state, state)]
        whole_batch = getattr(self._operation.generate_code(), "with_indices", False)
        one_buffer = memory is None or isinstance(memory, AllocationQuery)
        if kept[0] != kept[1] or not state.jit_mode or whole_batch or not one_buffer:
            what = f"{type(self._operation).__name__} does not turn one uint8 image into another of the same shape"
            raise OptionError(what, where="data.augment")
        self._has_memory = memory is not None
        return state, memory

    def generate_code(self) -> Callable[..., Any]:
        key, each = library().native_sample_key, Compiler.get_iterator()
        rule = ctypes.addressof(self._native)
        apply = numba.njit(fastmath=True, nogil=True, error_model="numpy")(self._operation.generate_code())

        def augment(images, memory, indices):  # type: ignore[no-untyped-def]
            for i in each(len(indices)):
                np.random.seed(key(rule, indices[i]))
                images[i] = apply(images[i : i + 1], memory[i : i + 1])[0]
            return images

        def augment_in_place(images, memory, indices):  # type: ignore[no-untyped-def]
            for i in each(len(indices)):
                np.random.seed(key(rule, indices[i]))
                images[i] = apply(images[i : i + 1], memory)[0]
            return images

        chosen = augment if self._has_memory else augment_in_place
        # FFCV's way to ask for prange. Two loaders at once abort the process where numba has its workqueue layer.
        chosen.is_parallel = numba.threading_layer() != "workqueue"  # type: ignore[attr-defined]
        chosen.with_indices = True  # type: ignore[attr-defined]
        return chosen


def checked(loader: Loader) -> Iterator[Any]:
    """The batches of a stock Loader; LoadError when its thread has died, for which FFCV would wait forever."""
    batches = iter(loader)
    try:
        while True:
            while batches.output_queue.empty() and batches.is_alive():
                batches.join(0.002)
            if batches.output_queue.empty():
                raise LoadError(
                    "FFCV's thread died (its traceback is above)",
                    where=loader.fname,
                    remedy="a damaged sample can cause this",
                )
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch
    finally:
        batches.close()
