"""Networks of torchvision and timm beside its ResNets: what they take, and what is refused in one line."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from helpers.recipes import mistakes
from torch import nn

from data_tools.common.options import OptionError
from training.config.schedule import Phase
from training.config.train_config import FAMILIES, NETWORKS, OF_RESNETS, RESNETS, Model
from training.engine.throughput import forward_flops
from training.model import networks, resnet, weights

CLASSES = 7
SMALLEST = {family: next(name for name in NETWORKS if name.startswith(family)) for family in FAMILIES}
SMALLEST |= {"mobilenet_": "mobilenet_v3_small", "vit_": "vit_b_32"}


@cache
def empty(arch: str, classes: int = CLASSES) -> nn.Module:
    """The network on the meta device; not to be changed."""
    return networks.without_weights(Model(arch=arch), classes)


def phase(px: int, **more: Any) -> Phase:
    given = {"epochs": (0, 1), "px": px, "batch_per_gpu": 4, "data": "160"}
    return Phase(**given | more)


def refused(arch: str, *phases: Phase, training: bool = True) -> str:
    """The one line that refuses these phases; empty if they are taken."""
    try:
        networks.check_sizes(Model(arch=arch), CLASSES, phases, training=training)
    except OptionError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_every_classification_network_of_torchvision_is_known() -> None:
    theirs = set(torchvision.models.list_models(module=torchvision.models))
    assert theirs - {"googlenet", "inception_v3"} == set(NETWORKS)
    assert len(NETWORKS) == len(set(NETWORKS))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arch": "convnext_tine"}, "of torchvision; did you mean convnext_tiny?; give its name there, or timm/NAME"),
        ({"arch": "timm/"}, "'timm/' is not a classification network"),
        ({"arch": "get_model"}, "'get_model' is not a classification network"),
        ({"arch": "inception_v3"}, "inception_v3 has auxiliary outputs, which are not trained here"),
        *(
            ({"arch": "regnet_y_400mf", option: True}, f"{option}: only ResNets have it, not regnet_y_400mf; give")
            for option in OF_RESNETS
        ),
        ({"arch": "timm/resnet50", "blurpool": True}, "blurpool: only ResNets have it, not timm/resnet50"),
    ],
)
def test_mistake_in_the_network_is_one_line(values: dict[str, Any], said: str) -> None:
    (error,) = mistakes(Model, values)
    assert said in str(error)


@pytest.mark.parametrize("arch", SMALLEST.values())
def test_options_of_resnets_are_off_elsewhere_and_work_there(arch: str) -> None:
    net = Model(arch=arch)
    assert net.init_bn0 is arch.startswith(RESNETS)
    own_parts = [type(each).__name__ for each in empty(arch).modules()]
    assert ("UncountedBatchNorm" in own_parts) is ("MaxPool" in own_parts) is net.init_bn0
    if net.init_bn0:
        made = [type(m) for m in resnet.build(arch, CLASSES, True, blurpool=True, stem_blocks=True).modules()]
        assert made.count(resnet.BlockStem) == 1 and made.count(resnet.BlurredConv) >= 3


@pytest.mark.parametrize("arch", SMALLEST.values())
def test_parameters_and_flops_are_those_that_torchvision_publishes(arch: str) -> None:
    published = torchvision.models.get_model_weights(arch).IMAGENET1K_V1
    net, (px,) = Model(arch=arch), published.transforms().crop_size
    assert sum(each.numel() for each in empty(arch, 1000).parameters()) == published.meta["num_params"]
    assert forward_flops(net, 1000, px) == pytest.approx(2e9 * published.meta["_ops"], rel=0.06)


@pytest.mark.parametrize("arch", SMALLEST.values())
def test_last_layer_has_an_output_for_each_class(arch: str) -> None:
    network, other = empty(arch), empty(arch, 1000).state_dict()
    last = networks.last_layer(network)
    assert [name for name, tensor in network.state_dict().items() if tensor.shape != other[name].shape] == last


@pytest.mark.parametrize("arch", SMALLEST.values())
def test_norms_and_biases_of_every_family_have_no_weight_decay(arch: str) -> None:
    network = empty(arch)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    kept, spared = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in resnet.parameter_groups(network, 1e-4, decay_norm=False, decay_bias=False)
    )
    assert kept | spared == set(names.values()) and not kept & spared
    # torchvision's own rule: ops of the classification reference find norms by these types, biases by their names.
    norms = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, norms)
        for name, _ in module.named_parameters(recurse=False)
    }
    assert spared == of_norms | {name for name in names.values() if name.endswith("bias")}


def test_prior_bias_makes_each_class_as_rare_as_it_is() -> None:
    for arch in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"):
        network = networks.build(Model(arch=arch, prior_bias=True), 10)
        bias = network.get_parameter(networks.last_layer(network)[-1])
        # A share of exp(-ln 10) = 0.1 in odds.
        assert torch.allclose(bias.exp(), torch.full((10,), 0.1))
        plain = networks.build(Model(arch=arch), 10).state_dict()
        assert not torch.allclose(plain[networks.last_layer(network)[-1]].exp(), torch.tensor(0.1))
    for arch in ("maxvit_t", "squeezenet1_1"):  # no biases, or a ReLU after them
        with pytest.raises(OptionError, match=r"has no biases that .* logits; give --model\.prior_bias=false"):
            networks.without_weights(Model(arch=arch, prior_bias=True), 10)


@pytest.mark.parametrize("arch", ["regnet_y_400mf", "swin_t"])
def test_network_without_weights_draws_and_changes_nothing(arch: str) -> None:
    torch.manual_seed(1)
    expected = networks.build(Model(arch=arch), CLASSES)
    torch.manual_seed(1)
    empty = networks.without_weights(Model(arch=arch), CLASSES)
    assert {each.device.type for each in empty.state_dict().values()} == {"meta"}
    torch.manual_seed(1)
    again = networks.build(Model(arch=arch), CLASSES).state_dict()
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in again.items()}
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.state_dict().items())


# ------------------------------------------------------------------------------------------------------------- sizes
def test_sizes_that_a_network_does_not_take_are_one_line() -> None:
    assert refused("vit_b_32", phase(224)) == ""
    assert "model.arch: vit_b_32 does not take 128 x 128 px (Wrong image height! " in refused("vit_b_32", phase(128))
    assert "does not take 224 x 232 px" in refused("vit_b_32", phase(224, rectangular_val=True))
    assert refused("maxvit_t", phase(224)) == ""
    assert "does not take 160 x 160 px" in refused("maxvit_t", phase(160))
    assert "does not take 32 x 32 px" in refused("alexnet", phase(32))
    assert refused("alexnet", phase(64, rectangular_val=True)) == ""
    # One image whose last feature map is one pixel; four have something to normalise.
    assert "does not take 34 x 34 px (Expected more than 1 value" in refused("densenet121", phase(34, batch_per_gpu=1))


@pytest.mark.parametrize("arch", ["convnext_tiny", "regnet_y_400mf", "swin_t"])
def test_other_networks_take_every_size(arch: str) -> None:
    phases = [phase(px, rectangular_val=True) for px in (32, 129)]
    assert refused(arch, *phases) == ""


def test_validation_alone_asks_nothing_of_training() -> None:
    of_another_size = phase(128, val_px=224)
    assert "128 x 128" in refused("vit_b_32", of_another_size)
    assert refused("vit_b_32", of_another_size, training=False) == ""


def test_outputs_other_than_one_per_class_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "alexnet", lambda num_classes: Two())
    assert "alexnet has other outputs than one for each class; give another network" in refused("alexnet", phase(64))


class Two(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean((2, 3)), images.mean((2, 3))


# -------------------------------------------------------------------------------------------------------------- timm
class FakeTimm(ModuleType):
    """Has one network, and fails the test if weights are asked for."""

    __version__ = "1.0"

    def __init__(self) -> None:
        super().__init__("timm")

    def is_model(self, name: str) -> bool:
        return name == "net"

    def list_models(self) -> list[str]:
        return ["net"]

    def create_model(self, name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        assert (name, pretrained) == ("net", False)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def test_networks_of_timm_are_built_and_never_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    assert networks.build(Model(arch="timm/net"), 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    for name, said in (
        ("nett", "'nett' is not a network of timm 1.0; did you mean net?"),
        ("hf-hub:net", "hf-hub:net"),
    ):
        with pytest.raises(OptionError) as error:
            networks.build(Model(arch=f"timm/{name}"), 5)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_network_that_computes_with_its_weights_is_built_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    monkeypatch.setattr(FakeTimm, "create_model", lambda *_, **__: Computing())
    assert networks.without_weights(Model(arch="timm/net"), 5).get_parameter("weight").is_meta


class Computing(nn.Linear):
    def reset_parameters(self) -> None:
        self.size = self.weight.detach().zero_().sum().item()

    def __init__(self) -> None:
        super().__init__(3, 5)


def test_missing_timm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(OptionError) as error:
        networks.check_sizes(Model(arch="timm/resnet50"), CLASSES, [phase(64)])
    assert str(error.value) == "model.arch: the package timm is missing; pip install timm"


def test_every_head_that_timm_names_is_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    monkeypatch.setattr(FakeTimm, "create_model", lambda *_, num_classes, **__: Distilled(num_classes))
    network = networks.build(Model(arch="timm/net", prior_bias=True), 10)
    assert torch.allclose(network(torch.zeros(1, 3, 8, 8)).exp(), torch.tensor(0.1))
    weights_of_norm = network.norm.weight.data.fill_(5).clone()
    given = weights.Weights(source=Path("x"), tensors=network.state_dict(), classes=("a",) * 10)
    other = networks.build(Model(arch="timm/net"), 10)
    heads = [head.weight.clone() for head in (other.head, other.head_dist)]
    assert weights.begin_from(other, given, ("b",) * 10)
    assert all(map(torch.equal, heads, (other.head.weight, other.head_dist.weight)))
    assert torch.equal(other.norm.weight, weights_of_norm)


class RmsNorm(nn.Module):
    """As timm's, which is no subclass of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def test_timms_own_norms_have_no_weight_decay() -> None:
    network = nn.Sequential(RmsNorm(), nn.Linear(3, 2))
    kept, spared = resnet.parameter_groups(network, 1e-4, decay_norm=False, decay_bias=True)
    assert [len(group["params"]) for group in (kept, spared)] == [2, 1]


class Distilled(nn.Module):
    """Two heads before a norm, as timm names them."""

    pretrained_cfg: ClassVar = {"classifier": ("head", "head_dist")}

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head, self.head_dist, self.norm = nn.Linear(3, classes), nn.Linear(3, classes), nn.LayerNorm(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(images.mean((2, 3)))
        return (self.head(x) + self.head_dist(x)) / 2


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "crossvit_tiny_240",
        "resnet50",
        "vit_tiny_patch16_224",
        "convnext_atto",
        "efficientnet_b0",
        "nfnet_f0",
    ],
)
def test_real_networks_of_timm_are_taken(name: str) -> None:
    pytest.importorskip("timm")
    network = networks.without_weights(Model(arch=f"timm/{name}"), CLASSES)
    other = networks.without_weights(Model(arch=f"timm/{name}"), CLASSES + 1).state_dict()
    changed = [key for key, tensor in network.state_dict().items() if tensor.shape != other[key].shape]
    assert changed == networks.last_layer(network)
    assert refused(f"timm/{name}", phase(240 if "240" in name else 224)) == ""


# ----------------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize(
    ("arch", "old"),
    [
        ("densenet121", {".norm1.": ".norm.1.", ".norm2.": ".norm.2.", ".conv1.": ".conv.1.", ".conv2.": ".conv.2."}),
        ("vit_b_32", {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}),
    ],
)
def test_old_names_in_torchvisions_files_are_known(arch: str, old: dict[str, str], tmp_path: Path) -> None:
    names = list(empty(arch).state_dict())
    published = list(names)
    for now, then in old.items():
        published = [name.replace(now, then) for name in published]
    assert published != names
    torch.save({name: torch.zeros(1) for name in published}, tmp_path / "published.pth")
    assert list(weights.read(tmp_path / "published.pth").tensors) == names


def test_weights_with_indices_among_them_are_a_start_for_other_classes(tmp_path: Path) -> None:
    ours, last = networks.build(Model(arch="swin_t"), CLASSES), ["head.weight", "head.bias"]
    own = {name: ours.state_dict()[name].clone() for name in last}
    theirs = {name: torch.zeros_like(tensor) for name, tensor in ours.state_dict().items()}
    assert torch.int64 in {tensor.dtype for tensor in theirs.values()}
    theirs |= {name: torch.zeros(10, *theirs[name].shape[1:]) for name in last}
    given = weights.Weights(source=tmp_path, tensors=theirs)
    assert weights.begin_from(ours, given, ("a",) * CLASSES)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, own.get(name, torch.zeros_like(tensor)))


def test_weights_of_a_resnet_for_another_network_are_named() -> None:
    given = weights.Weights(source=Path("x"), tensors=networks.build(Model(arch="resnet18"), CLASSES).state_dict())
    with pytest.raises(OptionError, match=r"give --model\.arch=resnet18 --model\.blurpool=false"):
        weights.load_into(networks.build(Model(arch="shufflenet_v2_x0_5"), CLASSES), given, ("a",) * CLASSES)
    headless = networks.build(Model(arch="squeezenet1_1"), 9).state_dict()
    with pytest.raises(OptionError, match="9 outputs, but the betons have 7 classes"):
        weights.load_into(
            networks.build(Model(arch="squeezenet1_1"), CLASSES),
            weights.Weights(source=Path("x"), tensors=headless),
            ("a",) * CLASSES,
        )
