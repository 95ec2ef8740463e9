"""The network and which of its parameters decay."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def build(arch: str, classes: int, init_bn0: bool) -> nn.Module:
    """A torchvision ResNet ending in global average pooling, so that any image size goes in.

    ``init_bn0`` zeroes the last BatchNorm of each residual block, so that each block starts as the identity, and
    draws the fc weights from N(0, 0.01). Source: imagenet18's ``init_bn0``; Goyal et al. 2017, section 5.1.
    """
    model: nn.Module = getattr(torchvision.models, arch)(num_classes=classes, zero_init_residual=init_bn0)
    if init_bn0:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
    return model


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_norm: bool, decay_bias: bool
) -> list[dict[str, object]]:
    """Two groups for the optimizer, with and without ``weight_decay``; every trainable parameter in exactly one.

    Normalisation layers are found by type: torchvision names some of them ``downsample.1``.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decays = decay_norm if isinstance(module, NORM_LAYERS) else decay_bias or name != "bias"
            (decayed if decays else spared).append(parameter)
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in decayed + spared) == total, "a parameter is in no group or in two"
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def amp_dtype(amp: str, device: torch.device) -> torch.dtype:
    """The compute type that ``train.amp`` means on ``device``; ``auto`` picks what the hardware is made for."""
    if amp != "auto":
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[amp]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
