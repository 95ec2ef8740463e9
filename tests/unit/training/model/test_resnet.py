"""The network and its parameter groups."""

import pytest
import torch

from training.model import resnet


@pytest.mark.parametrize(("arch", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_init_bn0_zeroes_the_last_norm_of_every_block(arch: str, last: str) -> None:
    torch.manual_seed(0)
    net = resnet.build(arch, classes=10, init_bn0=True)
    blocks = [m for m in net.modules() if hasattr(m, last)]
    assert len(blocks) == {"resnet18": 8, "resnet50": 16}[arch]
    assert all(bool((getattr(block, last).weight == 0).all()) for block in blocks)
    assert bool((net.bn1.weight == 1).all())
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    plain = resnet.build(arch, classes=10, init_bn0=False)
    assert not any(bool((getattr(m, last).weight == 0).all()) for m in plain.modules() if hasattr(m, last))


def test_any_image_size_is_accepted() -> None:
    net = resnet.build("resnet18", classes=7, init_bn0=True).eval()
    for height, width in ((64, 64), (96, 128), (33, 47)):
        assert net(torch.zeros(2, 3, height, width)).shape == (2, 7)


def test_norm_layers_have_no_weight_decay() -> None:
    net = resnet.build("resnet50", classes=1000, init_bn0=True)
    decayed, spared = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=False, decay_bias=True))
    # torchvision's ResNet-50: 53 convolutions and the fc weight and bias; 53 BatchNorms, 4 of them "downsample.1".
    assert (len(decayed), len(spared)) == (55, 106)
    assert any(p is net.layer1[0].downsample[1].weight for p in spared)
    _, with_biases = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=False, decay_bias=False))
    assert len(with_biases) == 107
    everything, nothing = (g["params"] for g in resnet.parameter_groups(net, 1e-4, decay_norm=True, decay_bias=True))
    assert (len(everything), len(nothing)) == (161, 0)


def test_amp_dtype_on_a_cpu() -> None:
    assert resnet.amp_dtype("auto", torch.device("cpu")) == torch.float32
    assert resnet.amp_dtype("bf16", torch.device("cpu")) == torch.bfloat16
