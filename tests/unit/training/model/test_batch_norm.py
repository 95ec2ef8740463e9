"""The kernels of BatchNorm against torch in float64, run by Triton's interpreter on the CPU."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.interpreted import interpreted
from helpers.norm_cases import KINDS, TOLERANCE, compare, images
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from training.model import batch_norm
from training.model.layers import UncountedBatchNorm

triton = pytest.importorskip("triton")
NAME = "training.model.kernels.batch_norm"
UseKernels = Callable[..., None]


@pytest.fixture
def use_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> UseKernels:
    """Takes the place of the kernels: interpreted ones, with ``parts`` partial sums, of which two are added at a time.

    ``mutant``: a piece of the kernels' source, and what to put there instead.
    """

    def use(parts: int = 2, mutant: tuple[str, str] | None = None) -> None:
        changed = None
        if mutant is not None:
            source = inspect.getsource(batch_norm.kernels)
            assert mutant[0] in source
            changed = tmp_path / "mutant.py"
            changed.write_text(source.replace(*mutant))
        kernels = interpreted(NAME, monkeypatch, changed)
        monkeypatch.setattr(kernels, "SUMMING", parts)
        monkeypatch.setattr(kernels, "PARTS", triton.language.constexpr(2))
        monkeypatch.setattr(kernels, "FEW_LANES", kernels.LANES)  # fewer programs
        monkeypatch.setattr(batch_norm, "kernels", kernels)
        monkeypatch.setattr(batch_norm, "wrap_triton", lambda kernel: kernel)
        monkeypatch.setattr(batch_norm, "has_kernels", lambda *_: True)

    return use


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 64, 5, 5), (1, 128, 7, 7), (3, 64, 1, 1), (2, 64, 13, 9)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_gradients_and_statistics_are_torchs_in_float64(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, use_kernels: UseKernels
) -> None:
    use_kernels()
    torch.manual_seed(0)
    compare(
        batch_norm.norm_relu, kind, images(shape, dtype), images(shape, dtype), gradients=1 if kind == "alone" else 2
    )


@pytest.mark.parametrize("parts", [1, 3, 1056])
def test_sums_in_several_parts_are_the_same(parts: int, use_kernels: UseKernels) -> None:
    use_kernels(parts)
    torch.manual_seed(0)
    compare(batch_norm.norm_relu, "two", images((3, 64, 9, 8)), images((3, 64, 9, 8)))


@pytest.mark.parametrize("values", ["large offset", "first is far off", "constant", "-inf", "inf", "NaN"])
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_values_are_as_in_torch(kind: str, values: str, use_kernels: UseKernels) -> None:
    use_kernels()
    torch.manual_seed(0)
    y, other, tolerance = images((2, 64, 9, 8)), images((2, 64, 9, 8)), None
    if values == "large offset":
        # float32 has steps of 6e-5 there, of which a mean may be half a one off.
        y[:, 3], tolerance = 1000 + 0.01 * y[:, 3], 0.005
    elif values == "first is far off":
        y[0, 3, 0, 0] = 1e4
    elif values == "constant":
        y[:, 3] = 0.75
    else:
        y[1, 3, 5, 2] = float(values)
    compare(batch_norm.norm_relu, kind, y, other, tolerance=tolerance)


MUTANTS = {
    "mask from the wrong sign": ("stopped = normalise(", "stopped = -normalise("),
    "biased running variance": ("squares / (rows - 1)", "squares / rows"),
    "unbiased variance": ("squares / rows + eps", "squares / (rows - 1) + eps"),
    "a tile dropped": ("range((tiles - part + count - 1) // count)", "range((tiles - part) // count)"),
    "a part dropped": ("range(0, count, PARTS)", "range(0, count - 1, PARTS)"),
    "bits shifted": (">> tl.arange(0, 8)", ">> (tl.arange(0, 8) ^ 1)"),
    "one of two gradients": ("if TWO:", "if False:"),
    "rows of the short tile counted": ("full - (tiles * ROWS - rows)", "full"),
    "statistics of the other norm": ("moments2, factors2)", "moments, factors2)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_finds_faulty_kernels(mutant: str, use_kernels: UseKernels) -> None:
    use_kernels(3, MUTANTS[mutant])
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="not close"):
        for kind in ("alone", "two"):
            compare(
                batch_norm.norm_relu,
                kind,
                images((3, 64, 9, 8)),
                images((3, 64, 9, 8)),
                gradients=1 if kind == "alone" else 2,
            )


def test_no_sum_depends_on_the_order_of_programs() -> None:
    assert "atomic" not in inspect.getsource(batch_norm.kernels)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_blocks_have_the_gradients_of_torchvisions(block: type, use_kernels: UseKernels) -> None:
    torch.manual_seed(0)
    width = 64 * block.expansion
    down = nn.Sequential(nn.Conv2d(64, width, 1, bias=False), UncountedBatchNorm(width))
    blocks = [block(64, 64, downsample=down, norm_layer=UncountedBatchNorm)]
    blocks += [block(width, 64, norm_layer=UncountedBatchNorm) for _ in range(1)]
    plain = nn.Sequential()
    plain.bn1, plain.relu, plain.blocks = UncountedBatchNorm(64), nn.ReLU(), nn.Sequential(*blocks)
    fused = copy.deepcopy(plain)
    batch_norm.fuse(fused)
    assert list(fused.state_dict()) == list(plain.state_dict())
    y = images((4, 64, 5, 4))
    assert torch.equal(plain(y), fused(y))  # not in a step compiled for a GPU
    assert all(torch.equal(*each) for each in zip(plain.buffers(), fused.buffers(), strict=True))

    use_kernels()
    exact, weights = copy.deepcopy(plain).double(), images((4, width, 5, 4))
    for net in (exact, fused):
        out = net(y.to(net.bn1.weight.dtype))
        (out * weights).sum().backward()
    for (name, expected), found in zip(exact.named_parameters(), fused.parameters(), strict=True):
        largest = expected.grad.abs().max().item()
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=0, atol=2e-5 * largest, msg=name)


@pytest.mark.parametrize(
    ("shape", "dtype", "trains", "fits"),
    [
        ((1, 64, 1, 2), torch.float16, True, True),
        ((1, 64, 1, 1), torch.float32, True, False),  # torch raises ValueError
        ((2, 32, 4, 4), torch.float32, True, False),
        ((2, 64, 4, 4), torch.float64, True, False),
        ((2, 64, 4, 4), torch.float32, False, False),
    ],
)
def test_what_the_kernels_cannot_take_goes_through_torch(
    shape: tuple[int, ...], dtype: torch.dtype, trains: bool, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    on_gpu = SimpleNamespace(dtype=dtype, shape=shape, numel=lambda: math.prod(shape), is_cuda=True)
    assert batch_norm.has_kernels(on_gpu, UncountedBatchNorm(shape[1]).train(trains)) is fits


def test_kernels_are_used_only_on_demand() -> None:
    assert not batch_norm.is_fused("auto") and batch_norm.is_fused(True)
