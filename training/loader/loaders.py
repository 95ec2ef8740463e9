"""A beton in, batches on the device out: FFCV's Loader with the project's order, decoding and iterator."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, Self

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
from training.config.schedule import batches_per_epoch
from training.loader import sample_order
from training.loader.beton_reader import BetonReader
from training.loader.crops import CentreCrops, RandomCrops, rectangle
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

FETCH_AHEAD = 16  # batches, of a page-local order
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

    Of FFCV's Loader it has the pipelines, the graph of Operations and their code. The pages of the file are not mapped:
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
        threads = torch.get_num_threads()  # which FFCV sets, too
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
        torch.set_num_threads(threads)
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
    with _compiling:
        Compiler.set_enabled(enabled)
        try:
            yield
        finally:
            Compiler.set_enabled(True)


class TrainLoader(BetonLoader):
    """Randomly cropped and flipped batches of a beton, each image at most once an epoch.

        loader = TrainLoader("data/beton/train_160.beton", px=128, batch=256)
        for images, labels in loader.epoch(0):

    `images` are uint8 (batch, 3, px, px) in channels-last, not normalised; `labels` int64 (batch,), numbers of
    `classes`. `batch` is per process; global batch b of an epoch is `order[b*batch*ranks : (b+1)*batch*ranks]`, of
    which this process takes every `ranks`-th from `rank` on. Crops depend on (seed, epoch, sample) alone.
    `workers`: threads, by default one for each core at hand. `page_window`: 0 shuffles uniformly; n keeps to n random
    pages (8 MB) at a time, for a beton larger than memory. `checksums`: compare every sample's bytes with
    NAME.beton.xxh64. `augment`: Operations for uint8 images on the host; `on_device`: modules for uint8 images there.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        min_scale: float = 0.08,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        classes: int | None = None,
        page_window: int = 0,
        checksums: bool = True,
        augment: Sequence[Operation] = (),
        on_device: Sequence[nn.Module] = (),
    ) -> None:
        _check_arguments(px, batch, rank, ranks)
        beton = BetonReader(Path(path), classes=classes, checksums=checksums)
        self.px, self._page_window, self._place = px, page_window, (rank, ranks)
        try:
            self.batches = batches_per_epoch(beton.images, batch, ranks, path)
            super().__init__(
                beton,
                RandomCrops(px=px, min_scale=min_scale, seed=seed),
                batch=batch,
                workers=workers,
                device=torch.device(device),
                largest=px * px,
                augment=[KeyedAugmentation(operation, seed) for operation in augment],
                on_device=on_device,
            )
        except BaseException:
            beton.close()
            raise
        self.seed = seed

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> BatchIterator:
        """The next epoch, from its beginning."""
        return self.epoch(self.next_epoch)

    def epoch(self, epoch: int, start_batch: int = 0) -> BatchIterator:
        """The batches of an epoch from `start_batch` on, as a context manager and an iterator.

        An epoch that is still open ends; asking it for another batch is then a LoadError.
        """
        if not 0 <= start_batch <= self.batches:
            raise ValueError(f"{self.beton.path}: no batch {start_batch} in an epoch of {self.batches}")
        self.next_epoch = epoch
        order = self.next_traversal_order().reshape(self.batches, self.batch)
        self.next_epoch += 1
        self._fetched: set[int] = set()
        return self._begin(order[start_batch:], epoch, start_batch)

    def samples(self, epoch: int) -> NDArray[np.int64]:
        if self._page_window:
            samples = sample_order.page_order(self.seed, epoch, self.beton.pages(), self._page_window)
        else:
            samples = sample_order.epoch_order(self.seed, epoch, self.images)
        return sample_order.rank_slice(samples, self.batch, *self._place).ravel()

    def batch_begins(self, batches: Sequence[NDArray[np.int64]], number: int) -> None:
        """With a page window, have the system fetch the pages that come soon."""
        if self._page_window:
            soon = np.concatenate(batches[number : number + FETCH_AHEAD])
            pages = set(self.beton.pages(soon).tolist()) - self._fetched
            self.beton.read_ahead(sorted(pages))
            self._fetched |= pages


class ValLoader(BetonLoader):
    """Every image of a beton exactly once over all ranks, in whole batches dealt out in turn; the last is ragged.

    Square: the shorter side resized to `resize`, by default int(px * 1.14), and a centre crop of px. `rectangular`:
    sorted by width / height, batches cut in that order, each cropped to its mean ratio with the shorter side at px.
    Ranks may get different numbers of batches. Iterating again starts anew. The rest is as for TrainLoader.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        rectangular: bool = False,
        resize: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        classes: int | None = None,
        checksums: bool = True,
    ) -> None:
        _check_arguments(px, batch, rank, ranks)
        beton = BetonReader(Path(path), classes=classes, checksums=checksums)
        ratios = beton.widths / beton.heights
        order = np.argsort(ratios, kind="stable") if rectangular else np.arange(beton.images)
        cut = [order[at : at + batch] for at in range(0, beton.images, batch)]
        shapes = [rectangle(ratios[each], px) if rectangular else (px, px) for each in cut]
        self.px, self.rectangular = px, rectangular
        self._mine = cut[rank::ranks]
        self.rounds = -(-len(cut) // ranks)  # the most batches that any rank has
        try:
            super().__init__(
                beton,
                CentreCrops(px=px, rectangular=rectangular, resize=resize),
                batch=batch,
                workers=workers,
                device=torch.device(device),
                largest=max((height * width for height, width in shapes), default=0),
            )
        except BaseException:
            beton.close()
            raise

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> BatchIterator:
        return self._begin(self._mine)

    def samples(self, epoch: int) -> NDArray[np.int64]:
        return np.concatenate(self._mine) if self._mine else np.zeros(0, np.int64)


def _check_arguments(px: int, batch: int, rank: int, ranks: int) -> None:
    if not 0 <= rank < ranks or batch < 1 or px < 1:
        raise ValueError(f"no loader for batches of {batch} images of {px} px as rank {rank} of {ranks}")
