"""The compiled kernels of BatchNorm against torch in float64, and twice."""

from __future__ import annotations

import pytest
import torch
from helpers.norm_cases import KINDS, TOLERANCE, compare, images, results

from training.model import batch_norm

pytestmark = pytest.mark.gpu
# Of ResNet-50 from 224 px, and odd ones.
SHAPES = [(8, 64, 112, 112), (8, 256, 56, 56), (8, 1024, 14, 14), (8, 2048, 7, 7), (3, 64, 57, 41), (1, 512, 1, 3)]
compiled = torch.compile(batch_norm.norm_relu, dynamic=False, fullgraph=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_torch_in_float64(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    y, other = (images(shape, dtype).to(device) for _ in range(2))
    tolerance = max(TOLERANCE[dtype], 1e-4)
    compare(compiled, kind, y, other, gradients=1 if kind == "alone" else 2, tolerance=tolerance, on_the_edge=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_give_the_same_bits_again(kind: str, device: torch.device) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    y, other, gradient = (images((8, 256, 56, 56), torch.bfloat16).to(device) for _ in range(3))
    first, again = (results(compiled, kind, y, other, [gradient] * (kind != "alone") + [gradient]) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
