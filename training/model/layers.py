"""Layers with the parameters and results of torchvision's, computed in a way that suits a GPU better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.library import triton_op, wrap_triton

try:
    from training.model.kernels.max_pool import launch_pooling, pool_windows, spread_gradients
except ImportError:  # torch for the CPU alone comes without Triton
    launch_pooling = None  # type: ignore[assignment]


class UncountedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that leaves ``num_batches_tracked`` to the training step, which updates all counts in one launch.

    BatchNorm2d launches a kernel for its own count; nothing reads it where ``momentum`` is a number.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.running_mean, self.running_var, self.weight, self.bias
        return nn.functional.batch_norm(x, *state, self.training, self.momentum or 0.0, self.eps)


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


class MaxPool(nn.Module):
    """ResNet's max pooling (3x3, stride 2, padding 1): as nn.MaxPool2d, with own kernels in a step compiled for a GPU.

    Eager steps take torch's kernels, since Triton needs a C compiler on the machine.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.training and x.is_cuda and x.dtype.itemsize <= 4 and torch.compiler.is_compiling()
        if launch_pooling is None or not own:
            return torch.max_pool2d(x, (3, 3), (2, 2), (1, 1))
        pooled: torch.Tensor = max_pool(x)[0]
        return pooled


def _empty(like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Channels-last. With ``memory_format`` Inductor would fill it first, 135 MB a step at 224 px."""
    n, channels, height, width = shape
    return like.new_empty((n, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


@triton_op("imagenet18::max_pool", mutates_args=())
def max_pool(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` (n, c, h, w), pooled to (n, c, ceil(h / 2), ceil(w / 2)), and the pixel that each value is of (0 to 8)."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    y = _empty(x, (n, channels, (height + 1) // 2, (width + 1) // 2), x.dtype)
    taken = _empty(x, y.shape, torch.int8)
    launch_pooling(wrap_triton(pool_windows), (x, y, taken), x.shape, y.shape)
    return y, taken


@triton_op("imagenet18::max_pool_backward", mutates_args=())
def max_pool_backward(grad: torch.Tensor, taken: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The gradient (n, c, ``height``, ``width``) of the pooling whose output has the gradient ``grad``."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    out = _empty(grad, (*grad.shape[:2], height, width), grad.dtype)
    launch_pooling(wrap_triton(spread_gradients), (grad, taken, out), out.shape, grad.shape)
    return out


def _keep(ctx: Any, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.size = inputs[0].shape[2:]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> torch.Tensor:
    (taken,) = ctx.saved_tensors
    spread: torch.Tensor = max_pool_backward(grad, taken, *ctx.size)
    return spread


max_pool.register_autograd(_backward, setup_context=_keep)
