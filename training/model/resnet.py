"""ResNets with this project's options; the parameters of any network with and without weight decay; precision."""

from typing import Any, Literal

import torch
import torchvision
from torch import nn

from training.model.batch_norm import fuse
from training.model.layers import BlockStem, MaxPool, UncountedBatchNorm

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def build(
    arch: str,
    classes: int,
    init_bn0: bool,
    blurpool: bool = False,
    stem_blocks: bool = False,
    fused_batch_norm: bool = False,
) -> nn.Module:
    """A torchvision ResNet, which takes any image size because it ends in global average pooling.

    ``init_bn0`` zeroes the last BatchNorm of each residual block, so that each block starts as the identity, and
    draws the fc weights from N(0, 0.01). Source: imagenet18's ``init_bn0``; Goyal et al. 2017, section 5.1.
    ``stem_blocks`` computes the first convolution as :class:`BlockStem`, ``fused_batch_norm`` BatchNorms with `fuse`.
    """
    model: nn.Module = getattr(torchvision.models, arch)(
        num_classes=classes, zero_init_residual=init_bn0, norm_layer=UncountedBatchNorm
    )
    if init_bn0:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
    if blurpool:
        _blur_strided_convolutions(model)
    if stem_blocks:
        assert isinstance(model.conv1, nn.Conv2d)
        model.conv1 = BlockStem(model.conv1)
    model.maxpool = MaxPool()
    if fused_batch_norm:
        fuse(model)
    return model


class BlurredConv(nn.Module):
    """A strided convolution with a fixed binomial blur before it.

    Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again"; the 3x3 filter that FFCV's recipes use.
    """

    kernel: torch.Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(line, line).repeat(conv.in_channels, 1, 1, 1), persistent=False)
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blurred = nn.functional.conv2d(x, self.kernel.to(x.dtype), padding=1, groups=x.shape[1])
        out: torch.Tensor = self.conv(blurred)
        return out


def _blur_strided_convolutions(module: nn.Module) -> None:
    for name, child in module.named_children():
        # The first convolution sees the image itself, which the loader has already smoothed.
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(module, name, BlurredConv(child))
        else:
            _blur_strided_convolutions(child)


def parameter_groups(model: nn.Module, weight_decay: float, decay_norm: bool, decay_bias: bool) -> list[dict[str, Any]]:
    """Two groups for the optimizer, with and without ``weight_decay``; each trainable parameter is in one of them.

    Normalisation layers are found by type: torchvision names some of them ``downsample.1``. timm's own, as its RmsNorm,
    are no subclasses of torch's, but are called so.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for module in model.modules():
        is_norm = isinstance(module, NORM_LAYERS) or "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decays = decay_norm if is_norm else decay_bias or not name.endswith("bias")
            (decayed if decays else not_decayed).append(parameter)
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in decayed + not_decayed) == total, "a parameter is in no group or in two"
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]


def amp_dtype(amp: str, device: torch.device) -> torch.dtype:
    """The compute type that ``train.amp`` means on ``device``; ``auto`` picks what the hardware is fastest at."""
    if amp != "auto":
        return AMP_DTYPES[amp]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def stem_on_blocks(stem_blocks: bool | Literal["auto"], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``model.stem_blocks`` means :class:`BlockStem`. With ``auto`` where cuDNN has no kernels for 3 channels:
    on an H200 it has them for fp16, and for bf16 pads each batch to 8 channels."""
    if stem_blocks != "auto":
        return stem_blocks
    return device.type == "cuda" and dtype == torch.bfloat16


def amp_name(dtype: torch.dtype) -> str:
    """The value of ``train.amp`` that means ``dtype`` on every device."""
    return next(name for name, each in AMP_DTYPES.items() if each == dtype)
