"""The FFCV Operations in a stock ffcv Loader: the same pixels as our loaders, and errors instead of hanging."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.operation import Operation
from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
from helpers.betons import batches_in_order, copy_beton, overwrite, sample_place

from data_tools.beton.format import read_layout
from training.loader.ffcv_operations import CentreCrop, KeyedRandomResizedCrop, RectangularCrop, checked
from training.loader.loaders import LoadError, TrainLoader, ValLoader

CPU = torch.device("cpu")
PX = 64


def stock_loader(path: Path, crop: Operation, workers: int = 2, batch: int = 8, **options: Any) -> Loader:
    pipelines = {"image": [crop, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor(), Squeeze(1)]}
    defaults = {"order": OrderOption.SEQUENTIAL, "drop_last": False}
    return Loader(str(path), batch_size=batch, num_workers=workers, pipelines=pipelines, **defaults | options)


def epoch_in_file_order(path: Path, epoch: int) -> Iterator[torch.Tensor]:
    loader = TrainLoader(path, px=PX, batch=40, min_scale=0.08, seed=5, workers=2, device=CPU)
    with loader, loader.epoch(epoch) as batches:
        images, _ = next(batches)
        yield from images[np.argsort(batches_in_order(loader, epoch)[0])]


@pytest.mark.parametrize("workers", [1, 2])
def test_random_crops_equal_those_of_the_train_loader(betons: Path, workers: int) -> None:
    path = betons / "train_160.beton"
    crop = KeyedRandomResizedCrop(PX, min_scale=0.08, seed=5)
    loader = stock_loader(path, crop, workers)
    labels: list[int] = []
    for epoch in (2, 3):
        crop.set_epoch(epoch)
        expected = epoch_in_file_order(path, epoch)
        for images, got in loader:
            labels += got.tolist()
            for image in images:
                assert torch.equal(image, next(expected))
    assert labels == 2 * read_layout(path).samples["f1"].tolist()


def test_centre_and_rectangular_crops_equal_those_of_the_val_loader(betons: Path) -> None:
    path = betons / "val_160.beton"
    sizes = read_layout(path).samples["f0"]
    by_ratio = np.argsort(sizes["width"] / sizes["height"], kind="stable")
    for crop, rectangular, indices in ((CentreCrop(PX), False, None), (RectangularCrop(PX), True, by_ratio)):
        ours = ValLoader(path, px=PX, batch=5, rectangular=rectangular, workers=1, device=CPU)
        with ours:
            for (a, labels), (b, expected) in zip(
                stock_loader(path, crop, batch=5, indices=indices), ours, strict=True
            ):
                assert torch.equal(a, b)
                assert torch.equal(labels, expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_damaged_sample_raises_and_does_not_hang(betons: Path, tmp_path: Path) -> None:
    path = copy_beton(betons / "train_160.beton", tmp_path)
    overwrite(path, sample_place(path, 20)[0], bytes(100))
    batches = checked(stock_loader(path, KeyedRandomResizedCrop(PX, min_scale=0.08, seed=5)))
    next(batches), next(batches)  # 16 of the samples before it
    began = time.monotonic()
    with pytest.raises(LoadError, match="damaged sample"):
        next(batches)
    assert time.monotonic() - began < 30  # and not never


def test_checked_gives_every_batch(betons: Path) -> None:
    loader = stock_loader(betons / "val_160.beton", CentreCrop(PX), batch=5)
    assert [len(labels) for _, labels in checked(loader)] == [5, 5, 2]
