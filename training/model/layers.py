"""Layers with the parameters and results of torchvision's, computed in a way that suits a GPU better."""

from __future__ import annotations

import torch
from torch import nn


class UncountedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that leaves ``num_batches_tracked`` to the training step, which updates all counts in one launch.

    BatchNorm2d launches a kernel for its own count; nothing reads it where ``momentum`` is a number.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


def batch_counts(module: nn.Module) -> list[torch.Tensor]:
    """The counts of batches that the BatchNorms in ``module`` leave to the training step."""
    norms = [part for part in module.modules() if isinstance(part, UncountedBatchNorm)]
    return [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]


class BlockStem(nn.Module):
    """ResNet's first convolution (7x7, stride 2, padding 3, on 3 channels) as a 4x4 one on blocks of 2x2 pixels.

    The same products are summed, in another order. The parameter is that of the convolution, as published. A block's 12
    channels are filled up to 16: tensor cores take multiples of 8, and cuDNN would copy the batch to get there.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((7, 7), (2, 2), (3, 3), None)
        self.weight = conv.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        padded = nn.functional.pad(x, (3, 3 + width % 2, 3, 3 + height % 2))
        weight = nn.functional.pad(self.weight, (0, 1, 0, 1))
        return nn.functional.conv2d(_blocks(padded), _blocks(weight))


def _blocks(x: torch.Tensor) -> torch.Tensor:
    """(n, 3, 2h, 2w) to (n, 16, h, w), channels-last: the 12 values of each block of 2x2 pixels, and zeros."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
    blocks = rows.transpose(2, 3).reshape(n, height // 2, width // 2, 4 * channels)
    return nn.functional.pad(blocks, (0, 4)).permute(0, 3, 1, 2)
