"""The kernels of the max pooling against torch's, run by Triton's interpreter on the CPU."""

import math
from types import ModuleType

import pytest
import torch
from helpers.interpreted import interpreted

from training.model import resnet

pytest.importorskip("triton")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return interpreted("training.model.kernels.max_pool", monkeypatch)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 8, 12, 12), (1, 5, 7, 9), (2, 64, 9, 6), (3, 3, 1, 1), (1, 4, 2, 1)], ids=str)
@pytest.mark.parametrize("values", ["distinct", "ties", "NaN", "infinite", "all infinite"])
def test_values_and_gradients_are_torchs(values: str, shape: tuple[int, ...], kernels: ModuleType) -> None:
    torch.manual_seed(0)
    images = torch.randn(shape)
    if values == "ties":
        images = images.relu().round()
    elif values != "distinct":
        images.view(-1)[:: 1 if values == "all infinite" else 5] = math.nan if values == "NaN" else -math.inf
    images = channels_last(images).requires_grad_()
    expected = torch.nn.functional.max_pool2d(images, kernel_size=3, stride=2, padding=1)
    found, taken = (channels_last(torch.empty(expected.shape, dtype=d)) for d in (torch.float32, torch.int8))
    kernels.launch_pooling(kernels.pool_windows, (images.detach(), found, taken), images.shape, expected.shape)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0, equal_nan=True)

    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    spread = channels_last(torch.full(shape, math.nan))  # each value has to be written
    kernels.launch_pooling(kernels.spread_gradients, (gradient, taken, spread), images.shape, expected.shape)
    torch.testing.assert_close(spread, images.grad)


def test_network_pools_with_a_layer_that_has_no_state() -> None:
    assert not resnet.build("resnet18", 5, init_bn0=False).get_submodule("maxpool").state_dict()
