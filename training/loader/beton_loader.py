"""What both loaders have in common: FFCV's Loader with the project's order, decoding and iterator."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import RLock
from typing import Any, Self

import numba
import numpy as np
import torch
from ffcv.loader import Loader
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.reader import Reader
from ffcv.transforms import ToTensor, ToTorchImage
from ffcv.traversal_order.base import TraversalOrder
from numba.core import config as numba_config
from numpy.typing import NDArray
from torch import nn

from data_tools.common.resources import check_memory, default_workers
from training.loader import sample_order
from training.loader.beton_reader import BetonReader
from training.loader.crops import CentreCrops, RandomCrops
from training.loader.device_transfer import CudaCopies, NoCopies, buffer_bytes
from training.loader.epoch_iterator import (
    IN_USE,
    READY_AHEAD,
    SUBMITTED_AHEAD,
    Batch,
    BatchIterator,
    BatchProducer,
)
from training.loader.ffcv_operations import DecodeBatch, KeyedAugmentation, Labels

_compiling = RLock()  # FFCV's compiler has one switch for the process


class GivenOrder(TraversalOrder):
    """An order by a function of the epoch; FFCV calls the instance with the Loader and uses what that returns."""

    def __init__(self, of_epoch: Callable[[int], NDArray[np.int64]]) -> None:
        self._of_epoch = of_epoch

    def __call__(self, loader: Loader) -> Self:
        return self

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        return self._of_epoch(epoch)


class BetonLoader(Loader):
    """What both loaders have: a beton, native threads, and at most one pass under way.

    FFCV's Loader gives it the pipelines, the graph of Operations and their code. The pages of the file are not mapped:
    the native threads read what they decode.
    """

    def __init__(
        self,
        beton: BetonReader,
        crops: RandomCrops | CentreCrops,
        *,
        batch: int,
        workers: int | None,
        device: torch.device,
        largest: int,
        augment: Sequence[Operation] = (),
        on_device: Sequence[nn.Module] = (),
    ) -> None:
        workers = default_workers(1) if workers is None else workers
        pinned = device.type == "cuda"
        check_memory(beton.path, (SUBMITTED_AHEAD + READY_AHEAD + IN_USE) * buffer_bytes(batch, largest, pinned))
        self.beton, self.images, self.classes = beton, beton.images, beton.manifest.classes
        self.decode = DecodeBatch(beton, crops, workers=workers, pinned=pinned)
        self.copies = CudaCopies(device) if pinned else NoCopies()
        self.batch = batch
        self._crops, self._augment, self._on_device = crops, list(augment), list(on_device)
        self._under_way: Callable[[], BatchIterator | None] = lambda: None  # nobody but the caller keeps it alive
        with _compiler(enabled=False):
            super().__init__(
                str(beton.path),
                batch_size=batch,
                num_workers=min(workers, numba_config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
                order=GivenOrder(self.samples),
                pipelines={
                    "image": [self.decode, *self._augment, ToTensor(), ToTorchImage()],
                    "label": [Labels(), ToTensor()],
                },
                drop_last=False,
            )
        if self._augment:
            self.generate_code()

    @property
    def reader(self) -> Reader:
        return self._reader

    @reader.setter
    def reader(self, reader: Reader) -> None:
        # FFCV would make a dictionary entry for each sample and page: 600 MB for ImageNet, and nobody reads them.
        reader.alloc_table = reader.alloc_table[:0]
        self._reader = reader

    def generate_code(self) -> None:
        """Code of the pipelines, compiled by numba where there are augmentations to compile."""
        with _compiler(enabled=bool(self._augment)):
            super().generate_code()

    def samples(self, epoch: int) -> NDArray[np.int64]:
        """This process's samples of an epoch, in order."""
        raise NotImplementedError

    def batch_begins(self, batches: Sequence[NDArray[np.int64]], number: int) -> None:
        """What is to be done before a batch is decoded."""

    def _begin(self, batches: Sequence[NDArray[np.int64]], epoch: int = 0, start: int = 0) -> BatchIterator:
        self.decode.check_open()
        if earlier := self._under_way():
            earlier.replace()
        self.beton.check_unchanged()
        for operation in (self.decode, *self._augment):
            if isinstance(operation, DecodeBatch | KeyedAugmentation):
                operation.set_epoch(epoch)

        def finish(number: int, copied: Any) -> Batch:
            images, labels = self.copies.hand_over(copied)
            return (self._transformed(images, epoch, start + number) if self._on_device else images), labels

        iterator = BatchIterator(BatchProducer(self, batches), finish)
        self._under_way = weakref.ref(iterator)
        return iterator

    def _transformed(self, images: torch.Tensor, epoch: int, number: int) -> torch.Tensor:
        """The modules on the device, with torch's generators keyed on (seed, epoch, batch)."""
        key = sample_order.batch_key(self.seed, epoch, number)
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(key)
            for module in self._on_device:
                images = module(images)
        return images.contiguous(memory_format=torch.channels_last)

    def close(self) -> None:
        """End the threads and close the file. Idempotent; also what leaving a `with` block does."""
        if iterator := self._under_way():
            iterator.close()
        self.decode.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _compiler(enabled: bool) -> Iterator[None]:
    """FFCV's compiler on or off. It leaves torch's threads alone: on a CPU a training that runs meanwhile would round
    otherwise."""
    with _compiling:
        set_num_threads = Compiler.set_num_threads
        Compiler.set_enabled(enabled)
        Compiler.set_num_threads = _set_threads_of_augmentations
        try:
            yield
        finally:
            Compiler.set_num_threads = set_num_threads
            Compiler.set_enabled(True)


def _set_threads_of_augmentations(number: int) -> None:
    Compiler.num_threads = number
    numba.set_num_threads(number)
