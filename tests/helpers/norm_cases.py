"""BatchNorm with ReLU and shortcuts, to be compared with torch's in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from training.model.layers import UncountedBatchNorm

KINDS = ("alone", "shortcut", "two")
# Relative to the largest value.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
NormReLU = Callable[..., Any]  # `training.model.batch_norm.norm_relu`


def norms(kind: str, channels: int) -> list[UncountedBatchNorm]:
    """One BatchNorm, or for "two" two, that begin amid a training."""
    torch.manual_seed(1)
    made = [UncountedBatchNorm(channels) for _ in range(2 if kind == "two" else 1)]
    for norm in made:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    return made


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(shape) * (0.2 + torch.rand(shape[1])[:, None, None]) + torch.randn(shape[1])[:, None, None]
    return values.to(dtype, memory_format=torch.channels_last)


def results(
    compute: NormReLU, kind: str, y: torch.Tensor, other: torch.Tensor, gradients: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """All that comes of it: by ``compute`` in y's type; for float64 what torch's own layers give."""
    made = [norm.to(y.device, torch.promote_types(y.dtype, torch.float32)) for norm in norms(kind, y.shape[1])]
    y, other = y.clone().requires_grad_(), other.clone().requires_grad_()
    if y.dtype == torch.float64:
        out = nn.functional.batch_norm(y, made[0].running_mean, made[0].running_var, made[0].weight, made[0].bias, True)
        if kind == "two":
            second = made[1].running_mean, made[1].running_var, made[1].weight, made[1].bias
            out = out + nn.functional.batch_norm(other, *second, True)
        branches = [(out + other if kind == "shortcut" else out).relu()] * len(gradients)
    else:
        added = {"alone": (), "shortcut": (other,), "two": (other, made[-1])}[kind]
        found = compute(y, made[0], *added, twice=len(gradients) == 2)
        branches = list(found) if isinstance(found, tuple) else [found] * len(gradients)
    torch.autograd.backward(branches, gradients)
    named = {"out": branches[-1].detach(), "gradient of y": y.grad}
    if kind != "alone":
        named["gradient of the shortcut"] = other.grad
    for number, norm in enumerate(made):
        state = {**norm.state_dict(), "gradient of weight": norm.weight.grad, "gradient of bias": norm.bias.grad}
        named |= {f"{name} {number}": value for name, value in state.items() if name != "num_batches_tracked"}
    return named


def compare(
    compute: NormReLU,
    kind: str,
    y: torch.Tensor,
    other: torch.Tensor,
    *,
    gradients: int = 1,
    tolerance: float | None = None,
    on_the_edge: float = 0.0,
) -> None:
    """``on_the_edge``: the share of values so near 0 that rounding may decide whether ReLU stops them."""
    given = [images(y.shape, y.dtype).to(y.device) for _ in range(gradients)]
    found = results(compute, kind, y, other, given)
    expected = results(compute, kind, y.double(), other.double(), [gradient.double() for gradient in given])
    tolerance = tolerance or TOLERANCE[y.dtype]
    for name, value in expected.items():
        if name.startswith("running"):  # of -inf, the mean is -inf or NaN, depending on torch's device
            value, found[name] = (torch.where(each.isfinite(), each, math.nan) for each in (value, found[name]))
        largest = value[value.isfinite()].abs().max().item() if value.isfinite().any() else 0.0
        close = {"rtol": tolerance, "atol": tolerance * largest, "equal_nan": True}
        got = found[name].double()
        if on_the_edge and value.dim() == 4:
            far = ~torch.isclose(got, value, **close)
            assert far.double().mean() <= on_the_edge, f"{kind}, {name}: {far.sum()} values are not close"
            continue
        torch.testing.assert_close(got, value, **close, msg=lambda m, n=name: f"{kind}, {n}: {m}")
