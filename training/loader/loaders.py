"""A beton in, batches on the device out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.common.options import OptionError
from data_tools.common.resources import check_memory, default_workers, usable_cores
from training.config.schedule import batches_per_epoch
from training.loader import sample_order
from training.loader.beton_reader import BetonReader, LoadError
from training.loader.crops import CropRule, centre_crops, random_crops, rectangle
from training.loader.decode_pool import BATCHES_AHEAD, Batches, DecodePool, Request
from training.loader.device_transfer import CudaCopies, HostBuffers, NoCopies

__all__ = ["LoadError", "TrainLoader", "ValLoader", "default_workers", "usable_cores"]

FETCH_AHEAD = 16  # batches, of a page-local order


class _Loader:
    """What both loaders have: a beton, threads, and at most one iteration under way."""

    def __init__(self, beton: BetonReader, *, workers: int | None, device: torch.device) -> None:
        self._beton = beton
        self.classes = beton.manifest.classes
        self._pool = DecodePool(default_workers(1) if workers is None else workers)
        self._buffers = HostBuffers(pinned=device.type == "cuda")
        self._copies = CudaCopies(device) if device.type == "cuda" else NoCopies()
        self._under_way: Batches | None = None

    def _begin(self, requests: Iterator[Request]) -> Batches:
        self._stop()
        self._beton.check_unchanged()
        self._under_way = Batches(self._pool, self._buffers, self._copies, requests, self._beton.explain)
        return self._under_way

    def _stop(self) -> None:
        if self._under_way is not None:
            self._under_way.close()

    def close(self) -> None:
        """End the threads and close the file. Idempotent; also what leaving a `with` block does."""
        self._stop()
        self._pool.close()
        self._beton.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TrainLoader(_Loader):
    """Randomly cropped and flipped batches of a beton, each image at most once an epoch.

        loader = TrainLoader("data/beton/train_160.beton", px=128, batch=256)
        for images, labels in loader.epoch(0):

    `images` are uint8 (batch, 3, px, px) in channels-last, not normalised; `labels` int64 (batch,), numbers of
    `classes`. `batch` is per process; global batch b of an epoch is `order[b*batch*ranks : (b+1)*batch*ranks]`, of
    which this process takes every `ranks`-th from `rank` on. Crops depend on (seed, epoch, sample) alone.
    `workers`: threads, by default one for each core at hand. `page_window`: 0 shuffles uniformly; n keeps to n random
    pages (8 MB) at a time, for a beton larger than memory.
    `checksums`: compare every sample's bytes with NAME.beton.xxh64.
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
    ) -> None:
        _check_arguments(px, batch, rank, ranks)
        path = Path(path)
        beton = BetonReader(path, classes=classes, checksums=checksums)
        self.images = beton.images
        try:
            self.batches = batches_per_epoch(beton.images, batch, ranks, path)
        except OptionError:
            beton.close()
            raise
        check_memory(path, (BATCHES_AHEAD + 2) * batch * px * px * 3)
        super().__init__(beton, workers=workers, device=torch.device(device))
        self.px, self.batch, self.min_scale, self.seed = px, batch, min_scale, seed
        self._rank, self._ranks, self._page_window = rank, ranks, page_window

    def epoch(self, epoch: int, start_batch: int = 0) -> Batches:
        """The batches of an epoch from `start_batch` on, as a context manager and an iterator.

        An epoch that is still open is closed.
        """
        if not 0 <= start_batch <= self.batches:
            raise ValueError(f"{self._beton.path}: no batch {start_batch} in an epoch of {self.batches}")
        rule = CropRule(seed=self.seed, epoch=epoch, min_scale=self.min_scale)
        return self._begin(self._requests(rule, self._order(epoch)[start_batch:]))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._page_window:
            samples = sample_order.page_order(self.seed, epoch, self._beton.pages(), self._page_window)
        else:
            samples = sample_order.epoch_order(self.seed, epoch, self.images)
        return sample_order.rank_slice(samples, self.batch, self._rank, self._ranks)

    def _requests(self, rule: CropRule, batches: NDArray[np.int64]) -> Iterator[Request]:
        beton = self._beton
        fetched: set[int] = set()
        for number, samples in enumerate(batches):
            if self._page_window:
                soon = set(beton.pages(batches[number : number + FETCH_AHEAD].ravel()).tolist()) - fetched
                beton.read_ahead(sorted(soon))
                fetched |= soon
            crops = random_crops(rule, samples, beton.widths[samples], beton.heights[samples])
            yield _request(beton, samples, crops, self.px, self.px)


class ValLoader(_Loader):
    """Every image of a beton exactly once over all ranks, in whole batches dealt out in turn; the last is ragged.

    Square: Resize(int(px * 1.14)) and a centre crop of px. `rectangular`: images sorted by width / height, batches
    cut in that order, each cropped to its mean ratio with the shorter side at px. Ranks may get different numbers
    of batches. Iterating again starts anew. Batches and the other arguments are as for TrainLoader.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        rectangular: bool = False,
        rank: int = 0,
        ranks: int = 1,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        classes: int | None = None,
        checksums: bool = True,
    ) -> None:
        _check_arguments(px, batch, rank, ranks)
        path = Path(path)
        beton = BetonReader(path, classes=classes, checksums=checksums)
        super().__init__(beton, workers=workers, device=torch.device(device))
        self.images, self.px, self.batch, self.rectangular = beton.images, px, batch, rectangular
        ratios = beton.widths / beton.heights
        samples = np.argsort(ratios, kind="stable") if rectangular else np.arange(self.images)
        cut = [samples[at : at + batch] for at in range(0, self.images, batch)]
        shapes = [rectangle(ratios[each], px) if rectangular else (px, px) for each in cut]
        largest = max((height * width for height, width in shapes), default=0)
        check_memory(path, (BATCHES_AHEAD + 2) * batch * largest * 3)
        self._mine = list(zip(cut, shapes, strict=True))[rank::ranks]
        self.rounds = -(-len(cut) // ranks)  # the most batches that any rank has

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> Batches:
        return self._begin(self._requests())

    def _requests(self) -> Iterator[Request]:
        beton = self._beton
        for samples, (height, width) in self._mine:
            crops = centre_crops(beton.widths[samples], beton.heights[samples], height, width)
            yield _request(beton, samples, crops, height, width)


def _check_arguments(px: int, batch: int, rank: int, ranks: int) -> None:
    if not 0 <= rank < ranks or batch < 1 or px < 1:
        raise ValueError(f"no loader for batches of {batch} images of {px} px as rank {rank} of {ranks}")


def _request(
    beton: BetonReader, samples: NDArray[np.int64], crops: NDArray[np.void], height: int, width: int
) -> Request:
    return Request(
        file=beton.file,
        tasks=beton.tasks(samples, crops),
        height=height,
        width=width,
        labels=beton.labels[samples],
        samples=samples,
        verify=beton.verify,
    )
