"""`data.augment`: augmentations by name, from FFCV on the host and from torchvision on the device."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from ffcv.pipeline.operation import Operation
from torch import nn
from torchvision.transforms import v2

from data_tools.common.options import OptionError
from training.config.augmentations import Augmentation

# Published per image; torchvision's others are drawn once per batch, which is faster.
DRAWN_PER_IMAGE = (v2.AugMix, v2.AutoAugment, v2.RandAugment, v2.RandomErasing, v2.TrivialAugmentWide)


def build(
    augmentations: tuple[Augmentation, ...], rank: int = 0, ranks: int = 1
) -> tuple[list[Operation], list[nn.Module]]:
    """(Operations on the host, modules on the device), in order, for process ``rank`` of ``ranks``. OptionError names
    the one that cannot be made."""
    operations: list[Operation] = []
    modules: list[nn.Module] = []
    for each in augmentations:
        made = _made(each)
        if isinstance(made, Operation):
            operations.append(made)
        else:
            modules.append(EachImage(made, rank, ranks) if isinstance(made, DRAWN_PER_IMAGE) else made)
    return operations, modules


class EachImage(nn.Module):
    """Applies ``module`` image by image, so that each draws its own random numbers; on a batch it would draw once.

    The images are every ``ranks``-th of a global batch, from ``rank`` on. All processes draw the seeds of the global
    batch, so an image is changed in the same way however many processes there are, and what comes next draws the same
    numbers in each.
    """

    def __init__(self, module: nn.Module, rank: int, ranks: int) -> None:
        super().__init__()
        self.module = module
        self.rank, self.ranks = rank, ranks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *seeds, after = torch.randint(1 << 62, (len(images) * self.ranks + 1,)).tolist()
        changed = []
        for image, seed in zip(images, seeds[self.rank :: self.ranks], strict=True):
            torch.manual_seed(seed)
            changed.append(self.module(image))
        torch.manual_seed(after)
        return torch.stack(changed)


def _made(augmentation: Augmentation) -> Any:
    package, _, name = augmentation.name.rpartition(".")
    kind = getattr(importlib.import_module(package), name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Operation | nn.Module)):
        raise OptionError(f"{package} has no {name}", where="data.augment")
    try:
        if kind is v2.RandomErasing and augmentation.arguments.get("value") == "random":
            raise ValueError(
                "normal random numbers are not uint8 pixels; give a number or [red, green, blue], 0 to 255"
            )
        return kind(**augmentation.arguments)
    except (TypeError, ValueError, AssertionError) as error:
        what = f"{augmentation.name} cannot be made with {augmentation.arguments} ({error})"
        raise OptionError(what, where="data.augment") from None
