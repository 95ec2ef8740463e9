"""The project's Operations in a stock ffcv Loader, FFCV's own in ours, and errors where FFCV would hang."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.operation import Operation
from ffcv.transforms import Cutout, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from helpers.betons import copy_beton, epoch_by_sample, overwrite, sample_place
from torch import nn

from data_tools.beton.format import read_layout
from data_tools.common.options import OptionError
from training.config.datasets import read_datasets
from training.config.run_config import Data, RunConfig
from training.config.schedule import Schedule
from training.engine.phase_loaders import train_loader
from training.loader import augmentation
from training.loader.beton_reader import LoadError
from training.loader.crops import CentreCrops, RandomCrops
from training.loader.ffcv_operations import DecodeBatch, checked
from training.loader.loaders import TrainLoader, ValLoader

PX = 64


def stock_loader(path: Path, decode: DecodeBatch, batch: int = 8) -> Loader:
    image = [decode, ToTensor(), ToTorchImage()]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]}
    order = OrderOption.SEQUENTIAL
    return Loader(str(path), batch_size=batch, num_workers=2, pipelines=pipelines, order=order, drop_last=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_random_crops_in_a_stock_loader_equal_those_of_the_train_loader(betons: Path, workers: int) -> None:
    path = betons / "train_160.beton"
    decode = DecodeBatch(path, RandomCrops(px=PX, seed=5), workers=workers)
    loader = stock_loader(path, decode)
    labels: list[int] = []
    for epoch in (2, 3):
        decode.set_epoch(epoch)
        pixels = []
        for images, got in loader:
            labels += got.tolist()
            pixels += [image.numpy().tobytes() for image in images]
        assert dict(enumerate(pixels)) == by_sample(path, epoch)
    assert labels == 2 * read_layout(path).samples["f1"].tolist()


def test_centre_crops_in_a_stock_loader_equal_those_of_the_val_loader(betons: Path) -> None:
    path = betons / "val_160.beton"
    with ValLoader(path, px=PX, batch=5, workers=1) as ours:
        stock = stock_loader(path, DecodeBatch(path, CentreCrops(px=PX)), batch=5)
        for (a, labels), (b, expected) in zip(checked(stock), ours, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(labels, expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_damaged_sample_in_a_stock_loader_raises_and_does_not_hang(betons: Path, tmp_path: Path) -> None:
    path = copy_beton(betons / "train_160.beton", tmp_path)
    overwrite(path, sample_place(path, 20)[0], bytes(100))
    batches = checked(stock_loader(path, DecodeBatch(path, RandomCrops(px=PX))))
    next(batches), next(batches)  # 16 of the samples before it
    began = time.monotonic()
    with pytest.raises(LoadError, match="damaged sample"):
        next(batches)
    assert time.monotonic() - began < 30  # and not never


def by_sample(path: Path, epoch: int = 1, **options: Any) -> dict[int, bytes]:
    return epoch_by_sample(path, epoch, **{"px": PX, "seed": 5, "workers": 2, "batch": 8} | options)


@pytest.mark.slow
def test_ffcv_augmentation_depends_on_seed_epoch_and_sample_alone(betons: Path) -> None:
    path = betons / "train_160.beton"

    def make() -> list[Operation]:
        return [Cutout(16), RandomHorizontalFlip(0.5)]

    expected = by_sample(path, workers=1, augment=make())
    assert len(expected) == 40 and expected != by_sample(path, 2, augment=make())
    assert by_sample(path, augment=make(), batch=4, ranks=2) == expected
    assert all(pixels != expected[sample] for sample, pixels in by_sample(path).items())


TWO_AT_ONCE = """
import sys
from ffcv.transforms import Cutout
from training.loader import TrainLoader
make = lambda: TrainLoader(sys.argv[1], px=64, batch=4, workers=2, augment=[Cutout(8)])
with make() as one, make() as other:
    for epoch in range(5):
        assert sum(1 for _ in zip(one.epoch(epoch), other.epoch(epoch))) == 10
"""


@pytest.mark.slow
def test_two_loaders_with_augmentations_on_the_workqueue_layer(betons: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_AT_ONCE, str(betons / "train_160.beton")],
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue"},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_cutout_cuts_each_image_elsewhere_and_torchs_threads_are_left_alone(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)  # even for a moment: a training may run beside it
    path = betons / "train_160.beton"
    plain, cut = by_sample(path), by_sample(path, workers=7, augment=[Cutout(16, (1, 2, 3))])
    assert chosen == []
    places = set()
    for sample, pixels in cut.items():
        image = np.frombuffer(pixels, np.uint8).reshape(3, PX, PX)
        before = np.frombuffer(plain[sample], np.uint8).reshape(3, PX, PX)
        rows, columns = np.nonzero((image != before).any(axis=0))
        place = int(rows.min()), int(columns.min())
        filled = image[:, place[0] : place[0] + 16, place[1] : place[1] + 16]
        assert (filled == np.array([1, 2, 3], np.uint8)[:, None, None]).mean() > 0.8
        places.add(place)
    assert len(places) > 20


def build(entry: object) -> tuple[list[Operation], list[nn.Module]]:
    return augmentation.build(Data(augment=[entry]).augment)


def test_augmentations_are_made_by_name() -> None:
    ((cutout,), none) = build({"ffcv.transforms.Cutout": {"crop_size": 8}})
    assert isinstance(cutout, Cutout) and not none


@pytest.mark.parametrize(
    "entry",
    [
        {"RandAugment": {"num_ops": 2, "magnitude": 9, "fill": [124, 116, 104]}},
        {"TrivialAugmentWide": {"num_magnitude_bins": 31}},
        {"RandomErasing": {"p": 0.9, "scale": [0.02, 0.33], "value": [124, 116, 104]}},
    ],
)
def test_published_augmentations_draw_for_each_image(betons: Path, entry: dict[str, object]) -> None:
    ((name, arguments),) = entry.items()
    made = build({f"torchvision.transforms.v2.{name}": arguments})[1]
    state = torch.random.get_rng_state()
    with TrainLoader(betons / "train_160.beton", px=PX, batch=8, seed=5, on_device=made) as loader:
        first, again, other = (next(iter(loader.epoch(epoch)))[0] for epoch in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.dtype, first.shape) == (torch.uint8, (8, 3, PX, PX))
    assert first.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    same = made[0](torch.arange(3 * PX * PX).remainder(251).to(torch.uint8).view(1, 3, PX, PX).expand(16, -1, -1, -1))
    assert len({image.numpy().tobytes() for image in same}) > 4


@pytest.mark.parametrize(
    "entries",
    [
        {"RandAugment": {}},
        {"RandomErasing": {"p": 0.5}, "ColorJitter": {"brightness": 0.9}, "TrivialAugmentWide": {}},
        {"ColorJitter": {"brightness": 0.9}},
    ],
)
def test_images_are_changed_alike_however_many_processes_share_a_batch(betons: Path, entries: dict[str, Any]) -> None:
    augment = [{f"torchvision.transforms.v2.{name}": arguments} for name, arguments in entries.items()]
    phase = {"epochs": [0, 1], "px": PX, "batch_per_gpu": 12, "data": 160}
    phase["lr"] = [{"epochs": [0, 1], "from": 0.1, "to": 0.1}]
    config = RunConfig(data=Data(dir=betons, augment=augment), schedule=Schedule(phases=[phase]))
    datasets = read_datasets(betons, config.schedule.betons())

    def batch_of(rank: int, ranks: int) -> torch.Tensor:
        first = config.schedule.phases[0]
        with train_loader(config, datasets, first, batch=12 // ranks, rank=rank, ranks=ranks) as loader:
            return next(iter(loader.epoch(1)))[0]

    whole = batch_of(0, 1)
    for rank in range(3):
        assert torch.equal(batch_of(rank, 3), whole[rank::3])


def test_erased_parts_have_the_given_pixels() -> None:
    entry = {"torchvision.transforms.v2.RandomErasing": {"p": 1.0, "value": [124, 116, 104]}}
    (erase,) = build(entry)[1]
    images = erase(torch.full((8, 3, 32, 32), 7, dtype=torch.uint8))
    for image in images:
        erased = (image != 7).all(0)
        assert 0.01 < erased.float().mean() < 0.4
        assert image[:, erased].unique(dim=1).flatten().tolist() == [124, 116, 104]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"torchvision.transforms.v2.RandomErasing": {"value": "random"}}, "not uint8 pixels"),
        ({"torchvision.transforms.v2.RandAugment": {"ops": 2}}, "cannot be made with"),
        ({"ffcv.transforms.Cutout": {"size": 8}}, "cannot be made with"),
        ("ffcv.transforms.Cutuot", "ffcv.transforms has no Cutuot"),
        ("ffcv.transforms.Compiler", "has no Compiler"),
    ],
)
def test_augmentation_that_cannot_be_made_is_named(entry: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(entry)


@pytest.mark.parametrize(
    "entry", ["ffcv.transforms.ToTensor", {"ffcv.transforms.ImageMixup": {"alpha": 0.5, "same_lambda": True}}]
)
def test_operation_that_does_more_than_change_pixels_is_refused(betons: Path, entry: object) -> None:
    operations, _ = build(entry)
    with pytest.raises(OptionError, match="does not turn one uint8 image into another"):
        TrainLoader(betons / "train_160.beton", px=PX, batch=8, augment=operations)


class RecordingCopies:
    """Stands in for the copies to a GPU, and records what was asked of it."""

    stream = None

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.started = 0

    def start(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
        self.started += 1
        self.log.append(("start", self.started))
        return self.started, images, labels

    def hand_over(self, copied: tuple[int, torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        self.log.append(("hand over", copied[0]))
        return copied[1:]


def test_each_batch_is_copied_once_in_order_and_ahead_of_its_turn(betons: Path) -> None:
    with TrainLoader(betons / "train_160.beton", px=PX, batch=5) as loader:
        loader.copies = copies = RecordingCopies()
        taken = 0
        for taken, _ in enumerate(loader.epoch(0), start=1):
            assert taken == 1 or copies.started >= min(taken + 1, 8)
            time.sleep(0.2)  # as for a step, in which the next batch is decoded
    assert taken == 8
    for what in ("start", "hand over"):
        assert [number for kind, number in copies.log if kind == what] == list(range(1, 9))
