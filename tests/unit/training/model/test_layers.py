"""Layers against torchvision's network, with the same weights."""

import pytest
import torch
import torchvision

from training.model import resnet
from training.model.layers import batch_counts


@pytest.mark.parametrize("sides", [(64, 64), (48, 64), (33, 47)])
def test_stem_on_blocks_is_torchvisions_but_for_rounding(sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = resnet.build("resnet18", 5, init_bn0=False, stem_blocks=True).double().train()
    theirs = torchvision.models.resnet18(num_classes=5).double().train()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, *sides, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.conv1(images), theirs.conv1(images), rtol=0, atol=1e-13)
    assert ours.conv1(images).is_contiguous(memory_format=torch.channels_last)
    found, expected = ours(images), theirs(images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for output in (found, expected):
        output.square().sum().backward()
    torch.testing.assert_close(ours.conv1.weight.grad, theirs.conv1.weight.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("option", ["stem_blocks", "fused_batch_norm"])
def test_option_that_only_speeds_up_has_the_same_draws_and_parameters(option: str) -> None:
    nets = []
    for options in ({}, {option: True}):
        torch.manual_seed(0)
        nets.append(resnet.build("resnet50", 5, init_bn0=True, blurpool=True, **options))
    plain, fast = (net.state_dict() for net in nets)
    assert list(plain) == list(fast)
    assert all(torch.equal(plain[name], fast[name]) for name in plain)
    shapes = [[[p.shape for p in g["params"]] for g in resnet.parameter_groups(n, 1e-4, False, False)] for n in nets]
    assert shapes[0] == shapes[1]
    assert [len(batch_counts(net)) for net in nets] == [53, 53]


def test_batch_norms_are_torchs_but_for_the_count_of_batches() -> None:
    torch.manual_seed(0)
    ours = resnet.build("resnet18", 5, init_bn0=False)
    theirs = torchvision.models.resnet18(num_classes=5)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32)
    for net in (ours, theirs):
        net(images)
    torch._foreach_add_(batch_counts(ours), 1)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("option", "dtype", "device", "blocks"),
    [
        ("auto", torch.bfloat16, "cuda", True),
        ("auto", torch.float16, "cuda", False),
        ("auto", torch.bfloat16, "cpu", False),
        (True, torch.float32, "cpu", True),
        (False, torch.bfloat16, "cuda", False),
    ],
)
def test_stem_is_on_blocks_by_itself_only_in_bf16_on_a_gpu(
    option: str, dtype: torch.dtype, device: str, blocks: bool
) -> None:
    assert resnet.stem_on_blocks(option, dtype, torch.device(device)) is blocks
