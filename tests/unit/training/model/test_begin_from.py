"""Weights of another run or of torchvision as a start."""

from pathlib import Path

import pytest
import torch
import torchvision

from training.model import checkpoint, resnet, weights

CATS = ("lion", "lynx", "puma")


def new() -> torch.nn.Module:
    return resnet.build("resnet18", 3, init_bn0=True)


@pytest.mark.parametrize(("classes", "new_fc"), [(3, False), (5, True)])
def test_torchvisions_weights_with_as_many_or_other_classes(tmp_path: Path, classes: int, new_fc: bool) -> None:
    theirs = torchvision.models.resnet18(num_classes=classes)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    net = new()
    own = {name: tensor.clone() for name, tensor in net.fc.state_dict().items()}
    assert weights.begin_from(net, weights.read(tmp_path / "theirs.pth"), CATS) is new_fc
    assert torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    for name, tensor in net.fc.state_dict().items():
        assert torch.equal(tensor, own[name] if new_fc else theirs.fc.state_dict()[name])


@pytest.mark.parametrize(("names", "new_fc"), [(CATS, False), (("cat", "dog", "owl"), True)])
def test_own_checkpoint_has_a_new_fc_for_other_classes(tmp_path: Path, names: tuple[str, ...], new_fc: bool) -> None:
    trained, net = new(), new()
    own = {"model": trained.state_dict(), "classes": list(names), "arch": "resnet18", "options": {}}
    checkpoint.save(tmp_path / "best.pt", own)
    assert weights.begin_from(net, weights.read(tmp_path / "best.pt"), CATS) is new_fc
    assert torch.equal(net.fc.weight, trained.fc.weight) is not new_fc
    assert torch.equal(net.conv1.weight, trained.conv1.weight)


def test_start_without_an_fc_layer(tmp_path: Path) -> None:
    headless = {name: tensor for name, tensor in new().state_dict().items() if not name.startswith("fc.")}
    assert weights.begin_from(new(), weights.Weights(source=tmp_path, tensors=headless), CATS)
