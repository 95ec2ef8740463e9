"""`data.augment`: augmentations by name, from FFCV on the host and from torchvision on the device."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from ffcv.pipeline.operation import Operation
from torch import nn

from data_tools.common.options import OptionError
from training.config.augmentations import Augmentation


def build(augmentations: tuple[Augmentation, ...]) -> tuple[list[Operation], list[nn.Module]]:
    """(Operations on the host, modules on the device), in order. OptionError names the one that cannot be made."""
    operations: list[Operation] = []
    modules: list[nn.Module] = []
    for each in augmentations:
        made = _made(each)
        if isinstance(made, Operation):
            operations.append(made)
        else:
            modules.append(made)
    return operations, modules


def _made(augmentation: Augmentation) -> Any:
    package, _, name = augmentation.name.rpartition(".")
    kind = getattr(importlib.import_module(package), name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Operation | nn.Module)):
        raise OptionError(f"{package} has no {name}", where="data.augment")
    try:
        return kind(**augmentation.arguments)
    except (TypeError, ValueError, AssertionError) as error:
        what = f"{augmentation.name} cannot be made with {augmentation.arguments} ({error})"
        raise OptionError(what, where="data.augment") from None
