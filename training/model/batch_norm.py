"""BatchNorm, ReLU and shortcuts of a ResNet as own kernels in a step compiled for a GPU; elsewhere in plain torch.

In Inductor's code they move two thirds of a step's bytes. The kernels keep ReLU's mask as a bit a value, or work it out
again, and store the gradient that a block's last BatchNorm and its shortcut share once.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.library import triton_op, wrap_triton
from torchvision.models.resnet import BasicBlock, Bottleneck

from training.model.layers import UncountedBatchNorm

try:
    from training.model.kernels import batch_norm as kernels
except ImportError:  # torch for the CPU alone comes without Triton
    kernels = None  # type: ignore[assignment]

# What model.fused_batch_norm=auto means. The kernels have not run on a card; on once `make gpu` has run them on one.
FUSED_BY_DEFAULT = False

Branches: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def is_fused(option: bool | Literal["auto"]) -> bool:
    """Whether ``model.fused_batch_norm`` means the kernels."""
    return FUSED_BY_DEFAULT if option == "auto" else option


def fuse(model: nn.Module) -> None:
    """Let a new torchvision ResNet, whose norms are UncountedBatchNorms, use the kernels. State and results stay."""
    norm: Any = model.bn1
    model.bn1, model.relu = BatchNormReLU(norm.num_features, norm.eps, norm.momentum), nn.Identity()
    blocks = [(name, part) for name, part in model.named_modules() if isinstance(part, BasicBlock | Bottleneck)]
    for name, block in blocks:
        model.set_submodule(name, FusedBlock(block, last=block is blocks[-1][1]))


class BatchNormReLU(UncountedBatchNorm):
    def forward(self, x: torch.Tensor) -> Any:
        return norm_relu(x, self)


class FusedBlock(nn.Module):
    """A residual block, with the modules of torchvision's.

    Takes and, unless it is the ``last``, returns two tensors where it uses the kernels: the same values for the block
    after it and for that block's shortcut, so that their gradients arrive apart, and a kernel adds them.
    """

    def __init__(self, block: BasicBlock | Bottleneck, last: bool) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self.downsample: Any = block.downsample
        self.depth, self.last = (3 if isinstance(block, Bottleneck) else 2), last

    def forward(self, inputs: Branches) -> Branches:
        x, other = inputs if isinstance(inputs, tuple) else (inputs, inputs)
        for number in range(1, self.depth):
            x = norm_relu(getattr(self, f"conv{number}")(x), getattr(self, f"bn{number}"))
        norm, other_norm = getattr(self, f"bn{self.depth}"), None
        x = getattr(self, f"conv{self.depth}")(x)
        if self.downsample is not None:
            convolution, other_norm = self.downsample
            other = convolution(other)
        out: Branches = norm_relu(x, norm, other, other_norm, twice=not self.last)
        return out


def has_kernels(y: torch.Tensor, norm: UncountedBatchNorm) -> bool:
    """Whether ``y`` (n, c, h, w) goes through the kernels. Torch refuses a single value per channel."""
    fits = y.dtype.itemsize <= 4 and y.shape[1] % 64 == 0 and y.numel() > y.shape[1]
    return kernels is not None and fits and norm.training and y.is_cuda and torch.compiler.is_compiling()


def norm_relu(
    y: torch.Tensor,
    norm: UncountedBatchNorm,
    other: torch.Tensor | None = None,
    other_norm: UncountedBatchNorm | None = None,
    *,
    twice: bool = False,
) -> Any:
    """relu(BN(y)), relu(BN(y) + other) or relu(BN(y) + BN(other)), of images (n, c, h, w); may overwrite BN(y).

    ``twice``: where the kernels compute it, as two tensors that share memory.
    """
    if not has_kernels(y, norm):
        out = UncountedBatchNorm.forward(norm, y)
        if other is not None:
            out += other if other_norm is None else other_norm(other)
        return torch.relu_(out)
    y = y.contiguous(memory_format=torch.channels_last)
    other = None if other is None else other.contiguous(memory_format=torch.channels_last)
    first = (y, norm.weight, norm.bias, _moments(y, norm))
    if other is None or other_norm is None:
        return _NormReLU.apply(*first, other, None, None, None, twice)
    return _NormReLU.apply(*first, other, other_norm.weight, other_norm.bias, _moments(other, other_norm), twice)


def _moments(y: torch.Tensor, norm: UncountedBatchNorm) -> Any:
    """Without a gradient: `_NormReLU` has that of BatchNorm as a whole."""
    return batch_moments(y.detach(), norm.running_mean, norm.running_var, norm.momentum, norm.eps)


class _NormReLU(torch.autograd.Function):
    """`norm_relu` by the kernels, which have the gradients of statistics, ReLU and sum in one."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        *tensors, ctx.twice = inputs
        out, bits = activate(*tensors)
        ctx.save_for_backward(*tensors, bits)
        return (out, out.view_as(out)) if ctx.twice else out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        y, weight, bias, moments, other, weight2, _, moments2, bits = ctx.saved_tensors
        grad, grad2 = gradients if ctx.twice else (gradients[0], None)
        first = activate_backward(grad, grad2, y, weight, bias, moments, other, weight2, moments2, bits)
        d_y, d_weight, d_bias, d_other, d_weight2, d_bias2 = (first + [None] * 6)[:6]
        return d_y, d_weight, d_bias, None, d_other, d_weight2, d_bias2, None, None


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    wrap_triton(kernel)[(programs,)](*arguments, **constants)


def _sizes(y: torch.Tensor) -> tuple[int, int, int]:
    """Rows and channels of ``y`` (n, c, h, w), and the parts of the rows that are summed up apart."""
    rows, channels = y.numel() // y.shape[1], y.shape[1]
    return rows, channels, min(-(-rows // kernels.ROWS.value), max(1, kernels.SUMMING // (channels // 64)))


def _tiles(y: torch.Tensor) -> int:
    """Programs of a kernel that takes each value by itself."""
    return int(-(-(y.numel() // y.shape[1]) // kernels.ROWS.value) * y.shape[1] // 64)


@triton_op("imagenet18::batch_moments", mutates_args=("running_mean", "running_var"))
def batch_moments(
    y: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float, eps: float
) -> torch.Tensor:
    """Mean and 1 / standard deviation (2, c), biased and with ``eps``, of ``y`` (n, c, h, w). Updates running ones."""
    rows, channels, count = _sizes(y)
    parts = y.new_empty((count, 2, channels), dtype=torch.float32)
    moments = y.new_empty((2, channels), dtype=torch.float32)
    _launch(kernels.sum_moments, count * channels // 64, y, parts, rows, channels, count)
    running = (running_mean, running_var)
    few = channels // kernels.FEW_LANES.value
    _launch(kernels.finish_moments, few, parts, moments, *running, rows, channels, count, momentum, eps)
    return moments


@triton_op("imagenet18::batch_norm_relu", mutates_args=())
def activate(
    y: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    moments: torch.Tensor,
    other: torch.Tensor | None,
    weight2: torch.Tensor | None,
    bias2: torch.Tensor | None,
    moments2: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `norm_relu`, and ReLU's mask, a bit for each value, if there is an ``other``."""
    rows, channels, _ = _sizes(y)
    kind = (other is not None) + (moments2 is not None)
    out = torch.empty_like(y)
    bits = y.new_empty(y.numel() // 8 if kind else 0, dtype=torch.uint8)
    first, second = (moments, weight, bias), (moments2, weight2, bias2)
    _launch(kernels.apply, _tiles(y), y, *first, other, *second, out, bits, rows, channels, KIND=kind)
    return out, bits


@triton_op("imagenet18::batch_norm_relu_backward", mutates_args=())
def activate_backward(
    grad: torch.Tensor,
    grad2: torch.Tensor | None,
    y: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    moments: torch.Tensor,
    other: torch.Tensor | None,
    weight2: torch.Tensor | None,
    moments2: torch.Tensor | None,
    bits: torch.Tensor,
) -> list[torch.Tensor]:
    """Gradients of y, weight and bias and, as far as given, of ``other``, its weight and its bias, from that of
    `activate`'s values, which is ``grad``, or ``grad`` + ``grad2``."""
    rows, channels, count = _sizes(y)
    kind = (other is not None) + (moments2 is not None)
    grad = grad.contiguous(memory_format=torch.channels_last)
    if grad2 is not None:
        grad2 = grad2.contiguous(memory_format=torch.channels_last)
    first, second, size = (moments, weight, bias), (other, moments2), (rows, channels)
    masked = torch.empty_like(y) if kind else None
    parts = y.new_empty((count, 3, channels), dtype=torch.float32)
    sums = (grad, grad2, y, *first, *second, bits, masked, parts, *size, count)
    _launch(kernels.sum_gradients, count * channels // 64, *sums, KIND=kind, TWO=grad2 is not None)
    of_parameters, factors = [], []
    for which, (norm, scale) in enumerate([(moments, weight), (moments2, weight2)][: max(1, kind)], 1):
        of_parameters.append([torch.empty_like(weight), torch.empty_like(weight)])
        factors.append(weight.new_empty((3, channels)))
        finish = (parts, norm, scale, *of_parameters[-1], factors[-1], *size, count)
        _launch(kernels.finish_gradients, channels // kernels.FEW_LANES.value, *finish, WHICH=which)
    d_y, d_other = torch.empty_like(y), torch.empty_like(y) if kind == 2 else masked
    out = (factors[0], d_y, *second, factors[-1], d_other)
    _launch(kernels.gradient, _tiles(y), masked if kind else grad, y, *first, *out, *size, KIND=kind)
    return [d_y, *of_parameters[0], *([] if d_other is None else [d_other]), *(of_parameters[1] if kind == 2 else [])]
