"""Triton kernels of BatchNorm with ReLU, and with what a residual block adds before it, of channels-last images.

Images (n, c, h, w) are a matrix of rows (pixels) and channels here. A program takes LANES channels, 128 bytes of a row
in half precision, and ROWS rows at a time. KIND says what is computed from y:

    0: relu(BN(y))    1: relu(BN(y) + other)    2: relu(BN(y) + BN(other))

Whoever reads a large tensor first begins at its end, which its writer has left in the L2 cache; the next begins at the
front. Each sum has one order, so a run gives the same bits each time.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(64)
ROWS = tl.constexpr(32)
# Programs of a sum: 8 on each of the H200's 132 processors. Not measured, nor are LANES and ROWS.
SUMMING = 1056
# Partial sums and channels that a program adds up at a time.
PARTS, FEW_LANES = tl.constexpr(128), tl.constexpr(16)


@triton.jit
def place(program, channels):
    """The block of rows or part that ``program`` takes, and its channels."""
    blocks = channels // LANES
    return program // blocks, program % blocks * LANES + tl.arange(0, LANES)


@triton.jit
def tile(number, rows, channels, channel):
    """Where the values of the tile with this ``number`` are, and which of its rows exist."""
    first = number.to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    return first * channels + (row[:, None] * channels + channel[None, :]), (first + row < rows)[:, None]


@triton.jit
def normalise(value, channel, channels, moments, weight, bias):
    """BatchNorm of ``value`` by ``moments``: mean and 1 / standard deviation of each channel."""
    scale = tl.load(moments + channels + channel) * tl.load(weight + channel)
    return (value - tl.load(moments + channel)[None, :]) * scale[None, :] + tl.load(bias + channel)[None, :]


@triton.jit
def sum_moments(y, parts, rows, channels, count):
    """The mean of each channel and its squared deviations from that, over each of ``count`` parts of the rows."""
    part, channel = place(tl.program_id(0), channels)
    mean, squares = tl.full((ROWS, LANES), 0, tl.float32), tl.full((ROWS, LANES), 0, tl.float32)
    seen = tl.full((ROWS, 1), 0, tl.float32)
    tiles = (rows + ROWS - 1) // ROWS
    for back in range((tiles - part + count - 1) // count):
        at, inside = tile(tiles - 1 - part - back * count, rows, channels, channel)
        value = tl.load(y + at, mask=inside, other=0).to(tl.float32)
        seen += inside.to(tl.float32)
        # Welford's update, which sums of squares about another point than the mean would lose digits against.
        away = tl.where(inside, value - mean, 0.0)
        mean += away * (1 / tl.maximum(seen, 1.0))
        squares += tl.where(inside, away * (value - mean), 0.0)
    here = tl.sum(seen * mean, 0) / tl.sum(seen)
    apart = mean - here[None, :]
    tl.store(parts + 2 * part * channels + channel, here)
    tl.store(parts + (2 * part + 1) * channels + channel, tl.sum(squares + seen * apart * apart, 0))


@triton.jit
def rows_of_part(part, rows, count):
    """The number of rows in each ``part`` of `sum_moments`; only the last tile, which part 0 has, may be short."""
    tiles = (rows + ROWS - 1) // ROWS
    full = (tiles - part + count - 1) // count * ROWS
    return tl.where(part == 0, full - (tiles * ROWS - rows), tl.where(part < count, full, 0)).to(tl.float32)[:, None]


@triton.jit
def finish_moments(parts, moments, running_mean, running_var, rows, channels, count, momentum, eps):
    """Mean and 1 / standard deviation of each channel from those of the parts; updates the running statistics."""
    channel = tl.program_id(0) * FEW_LANES + tl.arange(0, FEW_LANES)
    near = tl.load(parts + channel)  # sums of small differences from it lose fewer digits
    total = tl.full((PARTS, FEW_LANES), 0, tl.float32)
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        at, there = 2 * part[:, None] * channels + channel[None, :], (part < count)[:, None]
        away = tl.load(parts + at, mask=there, other=0) - near[None, :]
        total += tl.where(there, rows_of_part(part, rows, count) * away, 0.0)
    mean = near + tl.sum(total, 0) / rows
    total = tl.full((PARTS, FEW_LANES), 0, tl.float32)
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        at, there = 2 * part[:, None] * channels + channel[None, :], (part < count)[:, None]
        away = tl.load(parts + at, mask=there, other=0) - mean[None, :]
        squares = tl.load(parts + channels + at, mask=there, other=0)
        total += tl.where(there, squares + rows_of_part(part, rows, count) * away * away, 0.0)
    squares = tl.sum(total, 0)
    tl.store(moments + channel, mean)
    tl.store(moments + channels + channel, 1 / tl.sqrt(squares / rows + eps))
    for_mean, for_var = running_mean + channel, running_var + channel
    tl.store(for_mean, tl.load(for_mean) + momentum * (mean - tl.load(for_mean)))
    tl.store(for_var, tl.load(for_var) + momentum * (squares / (rows - 1) - tl.load(for_var)))


@triton.jit
def apply(
    y, moments, weight, bias, other, moments2, weight2, bias2, out, bits, rows, channels, KIND: tl.constexpr
):  # fmt: skip
    """What KIND says, and for 1 and 2 a bit for each value, whether ReLU lets it pass."""
    number, channel = place(tl.program_id(0), channels)
    at, inside = tile(number, rows, channels, channel)
    value = tl.load(y + at, mask=inside, other=0).to(tl.float32)
    value = normalise(value, channel, channels, moments, weight, bias)
    if KIND > 0:
        added = tl.load(other + at, mask=inside, other=0).to(tl.float32)
        if KIND == 2:
            added = normalise(added, channel, channels, moments2, weight2, bias2)
        value += added
    stopped = value <= 0  # not NaN
    tl.store(out + at, tl.where(stopped, 0.0, value), mask=inside)
    if KIND > 0:
        passes = tl.reshape(tl.where(stopped, 0, 1), (ROWS, LANES // 8, 8)) << tl.arange(0, 8)[None, None, :]
        at, inside = bytes_of_tile(number, rows, channels)
        tl.store(bits + at, tl.sum(passes, 2).to(tl.uint8), mask=inside)


@triton.jit
def bytes_of_tile(number, rows, channels):
    """Where the bits of a tile are, and which of its rows exist."""
    block = tl.program_id(0) % (channels // LANES)
    return tile(number, rows, channels // 8, block * (LANES // 8) + tl.arange(0, LANES // 8))


@triton.jit
def sum_gradients(
    grad, grad2, y, moments, weight, bias, other, moments2, bits, masked, parts, rows, channels, count,
    KIND: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """Sums over each part of the rows: of the gradient that ReLU lets pass, of that times y less its mean and, for
    KIND 2, times ``other`` less its mean. For 1 and 2 the gradient, which the shortcut takes too, goes to ``masked``.

    TWO: the gradient is the sum of ``grad`` and ``grad2``.
    """
    part, channel = place(tl.program_id(0), channels)
    total, along = tl.full((ROWS, LANES), 0, tl.float32), tl.full((ROWS, LANES), 0, tl.float32)
    along2 = tl.full((ROWS, LANES), 0, tl.float32)
    mean = tl.load(moments + channel)[None, :]
    tiles = (rows + ROWS - 1) // ROWS
    for back in range((tiles - part + count - 1) // count):
        number = tiles - 1 - part - back * count
        at, inside = tile(number, rows, channels, channel)
        gradient = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
        if TWO:
            gradient += tl.load(grad2 + at, mask=inside, other=0).to(tl.float32)
        value = tl.load(y + at, mask=inside, other=0).to(tl.float32)
        if KIND == 0:
            stopped = normalise(value, channel, channels, moments, weight, bias) <= 0
        else:
            at_bits, _ = bytes_of_tile(number, rows, channels)
            passes = (
                tl.load(bits + at_bits, mask=inside, other=0).to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]
            )
            stopped = tl.reshape(passes & 1, (ROWS, LANES)) == 0
        gradient = tl.where(stopped | ~inside, 0.0, gradient)
        if KIND > 0:
            rounded = gradient.to(masked.dtype.element_ty)
            tl.store(masked + at, rounded, mask=inside)
            gradient = rounded.to(tl.float32)
        total += gradient
        along += tl.where(inside, gradient * (value - mean), 0.0)
        if KIND == 2:
            value = tl.load(other + at, mask=inside, other=0).to(tl.float32)
            along2 += tl.where(inside, gradient * (value - tl.load(moments2 + channel)[None, :]), 0.0)
    tl.store(parts + 3 * part * channels + channel, tl.sum(total, 0))
    tl.store(parts + (3 * part + 1) * channels + channel, tl.sum(along, 0))
    if KIND == 2:
        tl.store(parts + (3 * part + 2) * channels + channel, tl.sum(along2, 0))


@triton.jit
def finish_gradients(parts, moments, weight, d_weight, d_bias, factors, rows, channels, count, WHICH: tl.constexpr):
    """The gradients of weight and bias, and the factors of `gradient`; WHICH: 1 for y, 2 for ``other``."""
    channel = tl.program_id(0) * FEW_LANES + tl.arange(0, FEW_LANES)
    total, along = tl.full((PARTS, FEW_LANES), 0, tl.float32), tl.full((PARTS, FEW_LANES), 0, tl.float32)
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        at, there = 3 * part[:, None] * channels + channel[None, :], (part < count)[:, None]
        total += tl.load(parts + at, mask=there, other=0)
        along += tl.load(parts + at + WHICH * channels, mask=there, other=0)
    inverse = tl.load(moments + channels + channel)
    scale = inverse * tl.load(weight + channel)
    of_bias, of_weight = tl.sum(total, 0), tl.sum(along, 0) * inverse
    tl.store(d_bias + channel, of_bias)
    tl.store(d_weight + channel, of_weight)
    tl.store(factors + channel, scale)
    tl.store(factors + channels + channel, scale * inverse * (of_weight / rows))
    tl.store(factors + 2 * channels + channel, scale * (of_bias / rows))


@triton.jit
def gradient_before(gradient, value, channel, channels, moments, factors):
    """The gradient of BatchNorm's input ``value`` from that of its output."""
    scale, along = tl.load(factors + channel)[None, :], tl.load(factors + channels + channel)[None, :]
    away = value - tl.load(moments + channel)[None, :]
    return scale * gradient - along * away - tl.load(factors + 2 * channels + channel)[None, :]


@triton.jit
def gradient(
    grad, y, moments, weight, bias, factors, d_y, other, moments2, factors2, d_other, rows, channels, KIND: tl.constexpr
):
    """The gradient of y and, for KIND 2, of ``other``. ``grad`` is masked by ReLU except for KIND 0."""
    number, channel = place(tl.program_id(0), channels)
    at, inside = tile(number, rows, channels, channel)
    value = tl.load(y + at, mask=inside, other=0).to(tl.float32)
    arrived = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    if KIND == 0:
        arrived = tl.where(normalise(value, channel, channels, moments, weight, bias) <= 0, 0.0, arrived)
    tl.store(d_y + at, gradient_before(arrived, value, channel, channels, moments, factors), mask=inside)
    if KIND == 2:
        value = tl.load(other + at, mask=inside, other=0).to(tl.float32)
        tl.store(d_other + at, gradient_before(arrived, value, channel, channels, moments2, factors2), mask=inside)
