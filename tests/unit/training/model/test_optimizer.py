"""Decoupled weight decay against composer's formula."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from training.config.train_config import Train
from training.model import optimizer


def composers_step(
    groups: Iterator[tuple[nn.Parameter, float]],
    buffers: dict[nn.Parameter, torch.Tensor],
    lr: float,
    *,
    initial_lr: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """DecoupledSGDW, one parameter after the other."""
    for parameter, decay in groups:
        grad = parameter.grad
        assert grad is not None
        buffers[parameter] = buffer = momentum * buffers[parameter] + grad if parameter in buffers else grad.clone()
        update = grad + momentum * buffer if nesterov else buffer
        parameter.data = parameter.data * (1 - lr / initial_lr * decay) - lr * update


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("everything", [False, True])
def test_decoupled_decay_is_composers(nesterov: bool, everything: bool) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    theirs = copy.deepcopy(ours)
    train = Train(decay_decoupled=True, weight_decay=0.05, decay_norm=everything, momentum=0.875, nesterov=nesterov)
    built = optimizer.build(ours, train, highest_lr=2.0)
    decays = [0.05 if everything or isinstance(m, nn.Linear) else 0.0 for m in theirs for _ in m.parameters()]
    buffers: dict[nn.Parameter, torch.Tensor] = {}
    for lr in (0.5, 2.0, 1.0, 0.1):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for group in built.param_groups:
            group["lr"] = lr
        built.step()
        pairs = zip(theirs.parameters(), decays, strict=True)
        composers_step(iter(pairs), buffers, lr, initial_lr=2.0, momentum=0.875, nesterov=nesterov)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_decay_in_the_gradient_is_torchs() -> None:
    net = nn.Linear(3, 2)
    built = optimizer.build(net, Train(weight_decay=0.1), highest_lr=1.0, momentum=0.96)
    assert type(built) is torch.optim.SGD
    assert [group["momentum"] for group in built.param_groups] == [0.96, 0.96]
    assert [group["weight_decay"] for group in built.param_groups] == [0.1, 0.0]
