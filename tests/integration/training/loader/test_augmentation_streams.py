"""Each position of a list of augmentations draws its own numbers, and what cannot be in the list is a line."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.transforms import (
    Cutout,
    ModuleWrapper,
    RandomBrightness,
    RandomContrast,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSaturation,
)
from helpers.betons import batches_in_order
from helpers.images import encoded, spec_for, write_tar
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from data_tools.common.options import OptionError
from data_tools.convert.converter import convert
from training.config.datasets import read_datasets
from training.config.run_config import Data, RunConfig
from training.config.schedule import Schedule
from training.engine.phase_loaders import train_loader
from training.loader.augmentation import KeyedAugmentation
from training.loader.crops import RandomCrops
from training.loader.loaders import TrainLoader

PX, COUNT, SEED = 16, 1000, 5
FAR = 4.5 / np.sqrt(COUNT)  # a correlation of independent numbers lies beyond it 7 times in a million


def picture() -> np.ndarray:
    """(px, px, 3) uint8 in two colours."""
    pixels = np.empty((PX, PX, 3), np.uint8)
    pixels[:, : PX // 2], pixels[:, PX // 2 :] = (40, 80, 120), (160, 110, 60)
    return pixels


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 1,000 times the picture."""
    folder = tmp_path_factory.mktemp("thousand")
    png = encoded(Image.fromarray(picture()), "PNG")
    files = {f"pictures/train/{at % 4}/{at}.png": png for at in range(COUNT)}
    files |= {f"pictures/val/{label}/0.png": png for label in range(4)}
    convert(spec_for(write_tar(folder / "pictures.tar", files), folder, caps=("160",), mode="raw"))
    return folder / "train_160.beton"


class Draws(Operation):
    """Writes two random numbers into the red of pixels (0, place) and (1, place)."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def generate_code(self) -> Callable[..., Any]:
        place = self.place

        def draw(images, *_):  # type: ignore[no-untyped-def]
            images[:, 0, place, 0] = np.random.randint(0, 256)
            images[:, 1, place, 0] = np.random.randint(0, 256)
            return images

        return draw

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return replace(previous_state, jit_mode=True), None


def images_of(path: Path, augment: list[Operation], epochs: int = 1, **options: Any) -> np.ndarray:
    """(epochs, samples, 3, px, px), by sample. One loader for all: it compiles its list, which takes seconds."""
    options = {"px": PX, "batch": 50, "min_scale": 1.0, "seed": SEED, "workers": 2} | options
    got, ranks = np.zeros((epochs, COUNT, 3, PX, PX), np.uint8), options.get("ranks", 1)
    for rank in range(ranks):
        with TrainLoader(path, **options, rank=rank, augment=augment) as loader:
            for epoch in range(epochs):
                samples = batches_in_order(loader, epoch, rank, ranks)
                for each, (images, _) in zip(samples, loader.epoch(epoch), strict=True):
                    got[epoch, each] = images.numpy()
    return got


def test_positions_epochs_crops_and_neighbours_draw_independent_numbers(thousand: Path) -> None:
    epochs = images_of(thousand, [Draws(0), Draws(1)], epochs=2)
    drawn = [each[:, 0, :2, :2].reshape(COUNT, -1).T.astype(float) for each in epochs]
    sides = np.full(COUNT, 1000, np.int32)
    crops = RandomCrops(px=PX, seed=SEED).of(np.arange(COUNT), sides, sides)[2]
    streams = [*drawn[0], *drawn[1], crops["flip"], crops["top"], np.roll(drawn[0][0], 1)]
    for one, other in itertools.combinations(streams, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < FAR
    for one, other in itertools.combinations([*drawn[0], *drawn[1]], 2):
        assert np.count_nonzero(one == other) < 20  # at random one of 256, 4 of 1,000
    for each in drawn[0]:  # uniform: chi-squared over 16 bins, whose 99.99 % quantile is 44.3
        counts = np.bincount(each.astype(int) // 16, minlength=16)
        assert ((counts - COUNT / 16) ** 2 / (COUNT / 16)).sum() < 44.3


@pytest.mark.slow
def test_streams_depend_on_nothing_else(thousand: Path) -> None:
    def make() -> list[Operation]:
        return [Draws(0), Draws(1)]

    expected = images_of(thousand, make(), workers=1)
    for options in ({"workers": 3, "batch": 125}, {"batch": 25, "ranks": 2}, {"batch": 10, "ranks": 4, "workers": 1}):
        assert (images_of(thousand, make(), **options) == expected).all()
    alone = images_of(thousand, [Draws(0)])
    assert (alone[..., 0, :2, 0] == expected[..., 0, :2, 0]).all()


@pytest.mark.slow
def test_two_cutouts_cut_out_two_squares(thousand: Path) -> None:
    (cut,) = images_of(thousand, [Cutout(4, (255, 0, 0)), Cutout(4, (0, 0, 255))])
    centres = []
    for colour in ((255, 0, 0), (0, 0, 255)):
        inside = (cut == np.array(colour, np.uint8)[None, :, None, None]).all(axis=1)
        centres.append((inside.any(axis=2).argmax(axis=1), inside.any(axis=1).argmax(axis=1)))
    whole = inside.sum(axis=(1, 2)) == 16
    assert whole.all()  # the second square is on top
    same = (centres[0][0] == centres[1][0]) & (centres[0][1] == centres[1][1])
    assert same.mean() < 0.05  # 1 of 169 at random, and some of which the second hides the first
    for one, other in itertools.product(centres[0], centres[1]):
        assert abs(np.corrcoef(one, other)[0, 1]) < 2 * FAR  # an overlap moves what is seen of the first


def changed_by(operation: Operation, position: int) -> np.ndarray:
    """(samples, px, px, 3): the picture of each sample after the operation at this position. Compiled for one thread,
    which takes a tenth of the time."""
    keyed = KeyedAugmentation(operation, SEED, position)
    _, memory = keyed.declare_state_and_memory(State(True, torch.device("cpu"), (PX, PX, 3), np.dtype("u1")))
    images = np.repeat(picture()[None], COUNT, axis=0)
    return numba.njit(keyed.generate_code())(images, np.zeros((COUNT, *memory.shape), memory.dtype), np.arange(COUNT))


@pytest.mark.slow
def test_ffcvs_colours_and_flip_hit_different_pictures_by_different_factors() -> None:
    kinds = (RandomBrightness(0.5, 0.5), RandomContrast(0.5, 0.5), RandomSaturation(0.5, 0.5))
    changed = [changed_by(kind, position) for position, kind in enumerate((*kinds, RandomHorizontalFlip(0.5)))]
    hit = [(each != picture()).any(axis=(1, 2, 3)) for each in changed]
    # How far apart the pixels (brightness and contrast) or the channels (saturation) are.
    factors = [np.ptp(each[..., 0], axis=(1, 2)) for each in changed[:2]] + [np.ptp(changed[2][:, 0, 0], axis=1)]
    for each in hit:
        assert abs(each.mean() - 0.5) < 0.08
    for one, other in itertools.combinations(range(len(changed)), 2):
        assert abs(np.corrcoef(hit[one], hit[other])[0, 1]) < FAR
    for one, other in itertools.combinations(range(len(kinds)), 2):
        both = hit[one] & hit[other]
        assert len(np.unique(factors[one][both])) > 50
        assert abs(np.corrcoef(factors[one][both], factors[other][both])[0, 1]) < 4.5 / np.sqrt(both.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": Cutout(8)}, r"^augment: Cutout is not a list; give a list of FFCV's Operations"),
        ({"augment": "Cutout"}, "^augment: 'Cutout' is not a list"),
        ({"augment": None}, "^augment: None is not a list"),
        ({"augment": [Cutout(8), "Cutout"]}, r"^augment\[1\]: 'Cutout' does not belong here; give a list"),
        ({"augment": [Cutout]}, r"^augment\[0\]: <class .*Cutout'> does not belong here"),
        ({"augment": [v2.RandomGrayscale()]}, r"^augment\[0\]: RandomGrayscale does not belong here"),
        ({"augment": [ModuleWrapper(v2.RandomGrayscale())]}, "ModuleWrapper does not turn one uint8 image"),
        ({"augment": [RandomResizedCrop((0.1, 1.0), (0.7, 1.3), 8)]}, "RandomResizedCrop does not turn one .* 16 px"),
        ({"augment": [Cutout(17)]}, "Cutout does not turn one uint8 image into another .* here 16 px"),
        ({"augment": [Cutout(4, (1, 2, 3, 4))]}, "Cutout does not turn one uint8 image into another"),
        ({"on_device": [Cutout(8)]}, r"^on_device\[0\]: Cutout does not belong here; give a list of torch's modules"),
        ({"on_device": v2.RandomGrayscale()}, "^on_device: RandomGrayscale is not a list"),
    ],
)
def test_wrong_things_in_the_list_are_one_line_each(thousand: Path, options: dict[str, Any], message: str) -> None:
    state = np.random.get_state()[1].tolist()
    with pytest.raises(OptionError, match=message) as error:
        TrainLoader(thousand, px=PX, batch=8, **options)
    assert "\n" not in str(error.value)
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize(
    "entry",
    [
        {"Resize": {"size": 8}},
        {"ConvertImageDtype": {}},
        {"Grayscale": {}},
        {"ToPILImage": {}},
        {"Normalize": {"mean": [0.5], "std": [0.5]}},
        {"MixUp": {"num_classes": 4}},
    ],
)
def test_module_of_a_recipe_that_gives_other_than_uint8_images_is_refused(
    thousand: Path, entry: dict[str, dict[str, Any]]
) -> None:
    ((name, arguments),) = entry.items()
    phase = {"epochs": [0, 1], "px": PX, "batch_per_gpu": 8, "data": 160}
    phase["lr"] = [{"epochs": [0, 1], "from": 0.1, "to": 0.1}]
    data = Data(dir=thousand.parent, augment=[{f"torchvision.transforms.v2.{name}": arguments}])
    config = RunConfig(data=data, schedule=Schedule(phases=[phase]))
    datasets = read_datasets(thousand.parent, config.schedule.betons())
    state = torch.random.get_rng_state()
    with pytest.raises(OptionError, match=f"^data.augment: {name} does not turn one uint8 image into another"):
        train_loader(config, datasets, config.schedule.phases[0], batch=8)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_list_of_modules_may_be_a_sequential(thousand: Path) -> None:
    with TrainLoader(thousand, px=PX, batch=8, on_device=nn.Sequential(v2.Grayscale(3))) as loader:
        images, _ = next(iter(loader.epoch(0)))
    assert torch.equal(images[:, 0], images[:, 1])
