"""The moving average against torch's AveragedModel."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.config.train_config import Train
from training.model.moving_average import MovingAverage


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def change(net: nn.Module) -> None:
    """Other weights and statistics, as a step gives."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
        net(torch.randn(2, 3, 8, 8))


def assert_same(ours: MovingAverage, theirs: AveragedModel) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        # A count of batches is copied here and averaged there; nothing reads it.
        assert "num_batches_tracked" in name or torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_average_is_bit_for_bit_that_of_torch(decay: float) -> None:
    torch.manual_seed(0)
    net = model()
    ours = MovingAverage(net, decay)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for _ in range(4):
        change(net)
        ours.update(net)
        theirs.update_parameters(net)
        assert_same(ours, theirs)


def test_average_continues_from_the_state_of_torchs() -> None:
    torch.manual_seed(0)
    net = model()
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(net)
    change(net)
    ours = MovingAverage(net, 0.9)
    ours.load_state_dict(theirs.state_dict())
    ours.update(net)
    theirs.update_parameters(net)
    assert_same(ours, theirs)


def test_average_with_a_half_life_and_an_interval_is_composers() -> None:
    """The first step is copied; every third is averaged with 2 ** -(interval / half-life)."""
    torch.manual_seed(0)
    net, train = model(), Train(ema=2 ** -(3 / 5), ema_every=3)
    ours = MovingAverage(net, train.ema, train.ema_every)
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 11):
        change(net)
        if step == 5:  # as a continued run
            saved, ours = ours.state_dict(), MovingAverage(net, train.ema, train.ema_every)
            ours.load_state_dict(saved)
        ours.update(net)
        for name, tensor in net.state_dict().items():
            if step == 1:
                expected[name] = tensor.clone()
            elif step % 3 == 0 and tensor.is_floating_point():
                expected[name] = expected[name] * 2 ** (-3 / 5) + (1 - 2 ** (-3 / 5)) * tensor
        for name, tensor in ours.module.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, expected[name])
