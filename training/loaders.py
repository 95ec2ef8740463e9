"""A beton and a phase in, batches on the device out. The place within an epoch is state that can be saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training import order
from training.cores import default_workers, usable_cores
from training.crops import CropRule, centre_crops, random_crops, rectangle
from training.engine import Batches, HostBuffers, Pool, Request
from training.opened import LoadError, Opened

__all__ = ["LoadError", "TrainLoader", "ValLoader", "default_workers", "usable_cores"]


class TrainLoader:
    """Randomly cropped and flipped batches of a beton, each image at most once an epoch.

    `batch` is per process; global batch b of an epoch is `order[b*batch*ranks : (b+1)*batch*ranks]`, of which this
    process takes every `ranks`-th from `rank` on. Crops depend on (seed, epoch, sample) alone.
    `page_window`: 0 shuffles uniformly; n keeps to n random pages (8 MB) at a time, for a beton larger than memory.
    `checksums`: verify every sample's bytes against NAME.beton.xxh64.
    """

    def __init__(
        self,
        path: Path,
        *,
        px: int,
        batch: int,
        min_scale: float,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int,
        device: torch.device,
        classes: int | None = None,
        page_window: int = 0,
        checksums: bool = False,
    ) -> None:
        if not 0 <= rank < ranks or batch < 1 or px < 1:
            raise ValueError(f"no loader for batch {batch} of {px} px as rank {rank} of {ranks}")
        self._beton = Opened(path, classes=classes, checksums=checksums)
        self.images = self._beton.images
        self.batches = self.images // (batch * ranks)
        if not self.batches:
            self._beton.close()
            raise ValueError(f"{path}: a batch of {batch} x {ranks} processes is larger than its {self.images} images")
        self.px, self.batch, self.min_scale, self.seed = px, batch, min_scale, seed
        self._rank, self._ranks, self._page_window = rank, ranks, page_window
        self._device = device
        self._pool = Pool(workers)
        self._buffers = HostBuffers(pinned=device.type == "cuda")
        self._open: Batches | None = None
        self._place = (0, 0)  # epoch, and global batches handed out of it

    def epoch(self, epoch: int, start_batch: int | None = None) -> "TrainEpoch":
        """The batches of an epoch from `start_batch` on, as a context manager and an iterator.

        Without `start_batch`: from where a loaded state stands if that is in this epoch, else from the beginning.
        An epoch that is still open is closed.
        """
        if start_batch is None:
            start_batch = self._place[1] if self._place[0] == epoch else 0
        if not 0 <= start_batch <= self.batches:
            raise ValueError(f"batch {start_batch} of an epoch of {self.batches}")
        self._beton.check_unchanged()
        if self._open is not None:
            self._open.close()
        rule = CropRule(seed=self.seed, epoch=epoch, min_scale=self.min_scale)
        requests = self._requests(rule, self._order(epoch), start_batch)
        self._open = Batches(self._pool, self._buffers, requests, self._device, self._beton.explain)
        return TrainEpoch(self, self._open, epoch, start_batch)

    def _order(self, epoch: int) -> list[order.Indices]:
        if self._page_window:
            samples = order.page_order(self.seed, epoch, self._beton.pages(), self._page_window)
        else:
            samples = order.epoch_order(self.seed, epoch, self.images)
        return order.share(samples, self.batch, self._rank, self._ranks)

    def _requests(self, rule: CropRule, dealt: list[order.Indices], start_batch: int) -> Iterator[Request]:
        beton = self._beton
        for samples in dealt[start_batch:]:
            crops = random_crops(rule, samples, beton.widths[samples], beton.heights[samples])
            yield _request(beton, samples, crops, self.px, self.px)

    def state_dict(self) -> dict[str, Any]:
        """The place within an epoch, as plain values; the same on every rank."""
        epoch, batches = self._place
        return {
            "epoch": epoch,
            "batches": batches,
            "global_batch": self.batch * self._ranks,
            "seed": self.seed,
            "beton": self._beton.manifest.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state stands, also with another number of ranks. ValueError for other data or batches."""
        for key, here in self.state_dict().items():
            if key not in ("epoch", "batches") and state[key] != here:
                raise ValueError(f"{self._beton.path}: the saved place has {key} {state[key]}, but here it is {here}")
        self._place = (state["epoch"], state["batches"])

    def close(self) -> None:
        """End the threads and close the file. Idempotent; also what leaving a `with` block does."""
        if self._open is not None:
            self._open.close()
        self._pool.close()
        self._beton.close()

    def __enter__(self) -> "TrainLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TrainEpoch(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """The batches of one epoch; see `TrainLoader.epoch`. Leaving its `with` block drops what is on the way."""

    def __init__(self, loader: TrainLoader, batches: Batches, epoch: int, start_batch: int) -> None:
        self._loader, self._batches = loader, batches
        loader._place = (epoch, start_batch)

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch = next(self._batches)
        epoch, done = self._loader._place
        self._loader._place = (epoch, done + 1)
        return batch

    def close(self) -> None:
        self._batches.close()

    def __enter__(self) -> "TrainEpoch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ValLoader:
    """Every image of a beton exactly once over all ranks, in whole batches dealt out in turn; the last is ragged.

    Square: Resize(int(px * 1.14)) and a centre crop of px. `rectangular`: images sorted by width / height, batches
    cut in that order, each cropped to its mean ratio with the shorter side at px. Ranks may get different numbers
    of batches. Iterating again starts anew.
    """

    def __init__(
        self,
        path: Path,
        *,
        px: int,
        batch: int,
        rectangular: bool,
        rank: int = 0,
        ranks: int = 1,
        workers: int,
        device: torch.device,
        classes: int | None = None,
        checksums: bool = False,
    ) -> None:
        if not 0 <= rank < ranks or batch < 1 or px < 1:
            raise ValueError(f"no loader for batch {batch} of {px} px as rank {rank} of {ranks}")
        self._beton = Opened(path, classes=classes, checksums=checksums)
        self.images = self._beton.images
        self.px, self.batch, self.rectangular = px, batch, rectangular
        self._ratios = self._beton.widths / self._beton.heights
        samples = np.argsort(self._ratios, kind="stable") if rectangular else np.arange(self.images)
        cut = [samples[at : at + batch] for at in range(0, self.images, batch)]
        self._mine: list[NDArray[np.int64]] = cut[rank::ranks]
        self._device = device
        self._pool = Pool(workers)
        self._buffers = HostBuffers(pinned=device.type == "cuda")
        self._open: Batches | None = None

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> Batches:
        self._beton.check_unchanged()
        if self._open is not None:
            self._open.close()
        self._open = Batches(self._pool, self._buffers, self._requests(), self._device, self._beton.explain)
        return self._open

    def _requests(self) -> Iterator[Request]:
        beton = self._beton
        for samples in self._mine:
            height, width = rectangle(self._ratios[samples], self.px) if self.rectangular else (self.px, self.px)
            crops = centre_crops(beton.widths[samples], beton.heights[samples], height, width)
            yield _request(beton, samples, crops, height, width)

    def close(self) -> None:
        """End the threads and close the file. Idempotent."""
        if self._open is not None:
            self._open.close()
        self._pool.close()
        self._beton.close()

    def __enter__(self) -> "ValLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(beton: Opened, samples: NDArray[np.int64], crops: NDArray[np.void], height: int, width: int) -> Request:
    return Request(
        file=beton.file,
        tasks=beton.tasks(samples, crops),
        height=height,
        width=width,
        labels=beton.labels[samples],
        samples=samples,
        verify=beton.verify,
    )
