"""Triton kernels of ResNet's max pooling (3x3, stride 2, padding 1) of channels-last images, forward and backward.

Inductor's backward pass works out, for every pixel and channel, the four windows that it may be in, and is bound by
that arithmetic: 1.29 ms of a step of 33 ms on an H200 (ResNet-50, 224 px, batch 224). Here a program takes blocks of
2x2 pixels, which lie in the same four windows, with all of their channels, in 0.14 ms.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

ELEMENTS = 1024  # of the output, for a program; the fastest of 512 to 4096 on an H200


@triton.jit
def pool_windows(
    x, y, taken, pixels, height, width, rows, columns, channels, PIXELS: tl.constexpr, LANES: tl.constexpr
):
    """The maximum of each window, and which of its 9 pixels that is: the first, or NaN, as in torch."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    lane = tl.arange(0, LANES)[None, :]
    column, row, image = pixel % columns, pixel // columns % rows, pixel // (columns * rows)
    inside = (pixel < pixels)[:, None] & (lane < channels)
    best = tl.full((PIXELS, LANES), -float("inf"), tl.float32)
    # The first pixel that is no padding, where all are -inf.
    first = 3 * (row == 0).to(tl.int32) + (column == 0).to(tl.int32)
    place = tl.full((PIXELS, LANES), 0, tl.int32) + first[:, None]
    for k in tl.static_range(9):
        top, left = 2 * row + k // 3 - 1, 2 * column + k % 3 - 1
        there = (top >= 0) & (top < height) & (left >= 0) & (left < width)
        at = (((image * height + top) * width + left) * channels)[:, None] + lane
        value = tl.load(x + at, mask=inside & there[:, None], other=-float("inf")).to(tl.float32)
        better = (value > best) | (value != value)
        best, place = tl.where(better, value, best), tl.where(better, k, place)
    at = (pixel * channels)[:, None] + lane
    tl.store(y + at, best, mask=inside)
    tl.store(taken + at, place.to(tl.int8), mask=inside)


@triton.jit
def gradient_in_windows(grad, taken, image, row, column, rows, columns, channels, lane, inside):
    """The gradient of a window, and which of its pixels it is for; -1 where there is no such window."""
    there = inside & ((row < rows) & (column < columns))[:, None]
    at = (((image * rows + row) * columns + column) * channels)[:, None] + lane
    return tl.load(grad + at, mask=there, other=0).to(tl.float32), tl.load(taken + at, mask=there, other=-1)


@triton.jit
def spread_gradients(
    grad, taken, out, pixels, height, width, rows, columns, channels, PIXELS: tl.constexpr, LANES: tl.constexpr
):
    """The gradients of the blocks of 2x2 pixels from those of the windows."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    lane = tl.arange(0, LANES)[None, :]
    j, i, n = pixel % columns, pixel // columns % rows, pixel // (columns * rows)
    inside = (pixel < pixels)[:, None] & (lane < channels)
    g00, t00 = gradient_in_windows(grad, taken, n, i, j, rows, columns, channels, lane, inside)
    g01, t01 = gradient_in_windows(grad, taken, n, i, j + 1, rows, columns, channels, lane, inside)
    g10, t10 = gradient_in_windows(grad, taken, n, i + 1, j, rows, columns, channels, lane, inside)
    g11, t11 = gradient_in_windows(grad, taken, n, i + 1, j + 1, rows, columns, channels, lane, inside)
    # The top left pixel is the middle (4) of its window, the next is its right (5) and the left (3) of the next, ...
    top_left = tl.where(t00 == 4, g00, 0.0)
    top_right = tl.where(t00 == 5, g00, 0.0) + tl.where(t01 == 3, g01, 0.0)
    low_left = tl.where(t00 == 7, g00, 0.0) + tl.where(t10 == 1, g10, 0.0)
    low_right = tl.where(t00 == 8, g00, 0.0) + tl.where(t01 == 6, g01, 0.0)
    low_right += tl.where(t10 == 2, g10, 0.0) + tl.where(t11 == 0, g11, 0.0)
    at = (((n * height + 2 * i) * width + 2 * j) * channels)[:, None] + lane
    right, low = inside & (2 * j + 1 < width)[:, None], inside & (2 * i + 1 < height)[:, None]
    tl.store(out + at, top_left, mask=inside)
    tl.store(out + at + channels, top_right, mask=right)
    tl.store(out + at + width * channels, low_left, mask=low)
    tl.store(out + at + (width + 1) * channels, low_right, mask=low & right)


def launch_pooling(kernel: Any, tensors: tuple[torch.Tensor, ...], image: torch.Size, pooled: torch.Size) -> None:
    """Run ``kernel`` for all pixels of the ``pooled`` shape (n, c, rows, columns)."""
    n, channels, rows, columns = pooled
    lanes = triton.next_power_of_2(channels)
    per_program = max(1, ELEMENTS // lanes)
    pixels = n * rows * columns
    grid = (triton.cdiv(pixels, per_program),)
    kernel[grid](*tensors, pixels, *image[2:], rows, columns, channels, PIXELS=per_program, LANES=lanes)
