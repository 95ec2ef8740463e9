"""A beton in, batches on the device out: the loader of a training and that of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ffcv.pipeline.operation import Operation
from numpy.typing import NDArray
from torch import nn

from training.config.schedule import batches_per_epoch
from training.loader import sample_order
from training.loader.beton_loader import BetonLoader
from training.loader.beton_reader import BetonReader
from training.loader.crops import CentreCrops, RandomCrops, rectangle
from training.loader.epoch_iterator import BatchIterator
from training.loader.ffcv_operations import KeyedAugmentation

FETCH_AHEAD = 16  # batches, of a page-local order


class TrainLoader(BetonLoader):
    """Randomly cropped and flipped batches of a beton, each image at most once an epoch.

        loader = TrainLoader("data/beton/train_160.beton", px=128, batch=256)
        for images, labels in loader.epoch(0):

    `images` are uint8 (batch, 3, px, px) in channels-last, not normalised; `labels` int64 (batch,), numbers of
    `classes`. `batch` is per process; global batch b of an epoch is `order[b*batch*ranks : (b+1)*batch*ranks]`, of
    which this process takes every `ranks`-th from `rank` on. Crops depend on (seed, epoch, sample) alone.
    `workers`: threads, by default one for each core at hand. `page_window`: keeps to this many random
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
        page_window: int | None = None,
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
    Ranks may get different numbers of batches. Iterating again starts over. The rest is as for TrainLoader.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        rectangular: bool = False,
        resize: int | None = None,
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
