"""The losses of each recipe's first five steps, as they were recorded: what its options, rates and crops come to.

A small network stands in for the recipe's, 8 images for its batch. All is in double precision, where sums in another
order, as on another processor, differ far less than is compared; the images are stored as pixels, and made of integers.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.images import sorted_files, spec_for, write_tar
from helpers.recipes import RECIPES, config
from PIL import Image
from torchvision.models.resnet import BasicBlock, ResNet

from data_tools.common.imagenet import IMAGENET_IMAGES
from data_tools.convert.converter import convert
from training.config.datasets import read_datasets
from training.config.schedule import batches_per_epoch
from training.distributed.world import World
from training.engine.metrics import MetricSums, over_batch
from training.engine.phase_loaders import train_loader
from training.engine.state import TrainState
from training.loader.sample_order import batch_key
from training.model import resnet

BATCH, PX = 8, 32
SINGLE = World(device=torch.device("cpu"))
GOLDEN = Path(__file__).with_name("golden_recipe_losses.json")


def png(seed: int) -> bytes:
    """Squares of random colours with noise on them."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 192, (6, 7, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    out = io.BytesIO()
    Image.fromarray(squares + rng.integers(0, 64, squares.shape, np.uint8)).save(out, "PNG")
    return out.getvalue()


def write_tiny_set(folder: Path) -> Path:
    """40 training images, five batches, in betons of every size that a recipe reads; no image exceeds the smallest."""
    sizes = {phase.data for name in RECIPES for phase in config(name).schedule.phases}
    sizes |= {phase.val_data for name in RECIPES for phase in config(name).schedule.phases}
    source = write_tar(folder / "source.tar", sorted_files(per_class=10, val_per_class=1, make=png))
    convert(spec_for(source, folder / "betons", caps=tuple(sorted(sizes)), mode="raw", workers=1))
    return folder / "betons"


def losses(name: str, betons: Path) -> list[float]:
    options = config(name, f"--data.dir={betons}", "--model.arch=resnet18", "--dist.device=cpu", "--data.workers=1")
    datasets = read_datasets(betons, options.schedule.betons())
    with pytest.MonkeyPatch.context() as patch:
        # Half a ResNet-18, because convolutions in double precision are slow; drawn in double, because single draws
        # differ in their last bits with a processor's vectors.
        patch.setattr(torchvision.models, "resnet18", lambda **more: ResNet(BasicBlock, [1, 1, 1, 1], **more))
        patch.setattr(resnet, "amp_dtype", lambda amp, device: torch.float64)
        patch.setattr(resnet, "amp_name", str)
        torch.set_default_dtype(torch.float64)
        try:
            state = TrainState(options, datasets, SINGLE)
        finally:
            torch.set_default_dtype(torch.float32)
    phase = state.schedule.phases[0]
    of_epoch = batches_per_epoch(IMAGENET_IMAGES["train"], phase.batch_per_gpu, options.schedule.gpus)
    state.model.train()
    found = []
    with train_loader(options, datasets, phase.model_copy(update={"px": PX}), batch=BATCH, workers=1) as loader:
        for batch, (images, labels) in enumerate(loader.epoch(0), start=1):
            # In proportion to the batch: rates for a larger one would make rounding grow from step to step.
            lr = state.schedule.lr(0, batch, of_epoch) * BATCH / (phase.batch_per_gpu * options.schedule.gpus)
            key = batch_key(options.run.seed, 0, batch)
            momentum = state.schedule.momentum(0, batch, of_epoch)
            found.append(state.step(images, labels, lr, MetricSums(SINGLE.device), key, momentum))
    return over_batch(found, SINGLE)


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return write_tiny_set(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", RECIPES)
def test_first_steps_of_a_recipe_have_the_recorded_losses(name: str, tiny_set: Path) -> None:
    assert losses(name, tiny_set) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-9)


def test_first_steps_repeated_have_the_same_losses_to_the_last_bit(tiny_set: Path) -> None:
    assert losses("titan8", tiny_set) == losses("titan8", tiny_set)


if __name__ == "__main__":  # PYTHONPATH=.:tests python THIS FILE: records the losses anew
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_tiny_set(Path(temporary))
        GOLDEN.write_text(json.dumps({name: losses(name, folder) for name in RECIPES}, indent=1) + "\n")
