"""A beton in, batches on the device out: the loader of a training and that of a validation."""

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch
from ffcv.loader import Loader
from ffcv.pipeline.operation import Operation
from ffcv.reader import Reader
from ffcv.transforms import ToTensor, ToTorchImage
from numba.core import config as numba_config
from numpy.typing import NDArray
from torch import nn

from data_tools.common.resources import check_memory, default_workers
from training.config.phases import LONGEST
from training.config.schedule import batches_per_epoch
from training.loader import sample_order
from training.loader.augmentation import KeyedAugmentation, check_list, ffcv_compiler
from training.loader.beton_reader import BetonReader, not_copied
from training.loader.crops import CentreCrops, RandomCrops, rectangle
from training.loader.device_transfer import Copies, buffer_bytes
from training.loader.epoch_iterator import IN_USE, READY_AHEAD, SUBMITTED_AHEAD, BatchIterator
from training.loader.ffcv_operations import DecodeBatch, Labels

FETCH_AHEAD = 16  # batches, of a page-local order
Samples = NDArray[np.int64]


class LoaderOptions(TypedDict, total=False):
    """What both loaders take. This process is `rank` of `ranks`. `workers`: threads, by default one for each core at
    hand. `classes`: how many the model has. `checksums`: compare every sample's bytes with NAME.beton.xxh64."""

    rank: int
    ranks: int
    workers: int | None
    device: torch.device | str
    classes: int | None
    checksums: bool


class BetonLoader(Loader):
    """What both loaders have: a beton, native threads, and at most one pass under way.

    FFCV's Loader gives it the pipelines, the graph of Operations and their code. The pages of the file are not mapped:
    the native threads read what they decode.
    """

    __reduce_ex__ = not_copied
    augment: Sequence[KeyedAugmentation] = ()
    on_device: Sequence[nn.Module] = ()

    def __init__(
        self,
        path: Path | str,
        crops: RandomCrops | CentreCrops,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        classes: int | None = None,
        checksums: bool = True,
    ) -> None:
        if not 0 <= rank < ranks or batch < 1 or crops.px < 1:
            raise ValueError(f"no loader for batches of {batch} images of {crops.px} px as rank {rank} of {ranks}")
        self.px, self.batch, self.rank, self.ranks, self.crops = crops.px, batch, rank, ranks, crops
        self.beton = BetonReader(Path(path), classes=classes, checksums=checksums)
        self.images, self.classes = self.beton.images, self.beton.manifest.classes
        self._under_way: Callable[[], BatchIterator | None] = lambda: None  # nobody but the caller keeps it alive
        try:
            workers = default_workers(1) if workers is None else workers
            device, in_flight = torch.device(device), SUBMITTED_AHEAD + READY_AHEAD + IN_USE
            pinned = device.type == "cuda"
            check_memory(self.beton.path, in_flight * buffer_bytes(self.deal(), pinned))
            self.copies = Copies(device)
            self.decode = DecodeBatch(self.beton, crops, workers=workers, pinned=pinned)
            image, label = self.beton.fields
            with ffcv_compiler(enabled=bool(self.augment)):
                super().__init__(
                    str(path),
                    batch_size=batch,
                    num_workers=min(workers, numba_config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
                    seed=seed,
                    pipelines={
                        image: [self.decode, *self.augment, ToTensor(), ToTorchImage()],
                        label: [Labels(), ToTensor()],
                    },
                    drop_last=False,
                )
        except BaseException:
            self.beton.close()
            raise

    @property
    def reader(self) -> Reader:
        return self._reader

    @reader.setter
    def reader(self, reader: Reader) -> None:
        # FFCV would make a dictionary entry for each sample and page: 600 MB for ImageNet, and nobody reads them.
        reader.alloc_table = reader.alloc_table[:0]
        self._reader = reader

    def deal(self) -> int:
        """Deal out the beton's images to ranks and batches; returns the pixels of the largest batch."""
        raise NotImplementedError

    def batch_begins(self, batches: Sequence[Samples], number: int) -> None:
        """What is to be done before a batch is decoded."""

    def _begin(self, batches: Sequence[Samples], epoch: int = 0, start: int = 0) -> BatchIterator:
        self.decode.check_open()
        if earlier := self._under_way():
            earlier.replace()
        self.beton.check_unchanged()
        self.decode.set_epoch(epoch)
        for operation in self.augment:
            operation.set_epoch(epoch)
        iterator = BatchIterator(self, batches, epoch, start)
        self._under_way = weakref.ref(iterator)
        return iterator

    def hand_over(self, copied: Any, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch that `copies` began, through the modules on the device, with torch's generators keyed on (seed,
        epoch, batch)."""
        images, labels = self.copies.hand_over(copied)
        if self.on_device:
            with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
                torch.manual_seed(sample_order.batch_key(self.seed, epoch, number))
                for module in self.on_device:
                    images = module(images)
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def close(self) -> None:
        """End the threads and close the file. Idempotent; also what leaving a `with` block does."""
        if iterator := self._under_way():
            iterator.close()
        self.decode.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TrainLoader(BetonLoader):
    """Randomly cropped and flipped batches of a beton, each image at most once an epoch.

        loader = TrainLoader("data/beton/train_160.beton", px=128, batch=256)
        for images, labels in loader.epoch(0):

    `images` are uint8 (batch, 3, px, px) in channels-last, not normalised; `labels` int64 (batch,), numbers of
    `classes`. `batch` is per process; global batch b of an epoch is `order[b*batch*ranks : (b+1)*batch*ranks]`, of
    which this process takes every `ranks`-th from `rank` on. Crops depend on (seed, epoch, sample) alone.
    `page_window`: keeps to this many random pages (8 MB) at a time, for a beton larger than memory. `augment`:
    Operations for uint8 images on the host; `on_device`: modules for uint8 images there. `options`: LoaderOptions.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        min_scale: float = 0.08,
        seed: int = 0,
        page_window: int | None = None,
        augment: Sequence[Operation] = (),
        on_device: Sequence[nn.Module] = (),
        **options: Unpack[LoaderOptions],
    ) -> None:
        operations = check_list(augment, Operation, "augment", "give a list of FFCV's Operations, as [Cutout(8)]")
        self.augment = [KeyedAugmentation(each, seed, position) for position, each in enumerate(operations)]
        self.on_device = check_list(on_device, nn.Module, "on_device", "give a list of torch's modules")
        self._page_window = page_window
        super().__init__(path, RandomCrops(px=px, min_scale=min_scale, seed=seed), batch, seed=seed, **options)

    def deal(self) -> int:
        self.batches = batches_per_epoch(self.images, self.batch, self.ranks, self.beton.path)
        return self.batch * self.px**2

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> BatchIterator:
        """The next epoch, from its beginning."""
        return self.epoch(self.next_epoch)

    def epoch(self, epoch: int, start_batch: int = 0, places: range | None = None) -> BatchIterator:
        """The batches of an epoch from `start_batch` on, as a context manager and an iterator.

        `places`: those in the order of the epoch that the batches are cut from, if those before had another size.
        An epoch that is still open ends; asking it for another batch is then a LoadError.
        """
        if places is None:
            if not 0 <= start_batch <= self.batches:
                raise ValueError(f"{self.beton.path}: no batch {start_batch} in an epoch of {self.batches}")
            places = range(start_batch * self.batch * self.ranks, self.images)
        self.next_epoch = epoch + 1
        self._fetched: set[int] = set()
        return self._begin([*self.samples(epoch, places)], epoch, start_batch)

    def samples(self, epoch: int, places: range | None = None) -> Samples:
        """(batches, batch): this process's samples of an epoch, or of `places` in its order."""
        if self._page_window:
            samples = sample_order.page_order(self.seed, epoch, self.beton.pages(), self._page_window)
        else:
            samples = sample_order.epoch_order(self.seed, epoch, self.images)
        if places is not None:
            samples = samples[places.start : places.stop]
        return sample_order.rank_slice(samples, self.batch, self.rank, self.ranks)

    def batch_begins(self, batches: Sequence[Samples], number: int) -> None:
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
    The longer side is at most LONGEST times the shorter; `strips` images lose what is beyond. Ranks may get different
    numbers of batches. Iterating again starts over. The rest is as for TrainLoader.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        px: int,
        batch: int,
        rectangular: bool = False,
        resize: int | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        self.rectangular = rectangular
        super().__init__(path, CentreCrops(px=px, rectangular=rectangular, resize=resize), batch, **options)

    def deal(self) -> int:
        ratios = self.beton.widths / self.beton.heights
        order = np.argsort(ratios, kind="stable") if self.rectangular else np.arange(self.images)
        cut = [order[at : at + self.batch] for at in range(0, self.images, self.batch)]
        self._mine = cut[self.rank :: self.ranks]
        self.rounds = -(-len(cut) // self.ranks)  # the most batches that any rank has
        self.strips = int(np.count_nonzero((ratios > LONGEST) | (ratios < 1 / LONGEST))) if self.rectangular else 0
        shapes = [rectangle(ratios[each], self.px) if self.rectangular else (self.px, self.px) for each in cut]
        return max((len(each) * math.prod(shape) for each, shape in zip(cut, shapes, strict=True)), default=0)

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> BatchIterator:
        return self._begin(self._mine)
