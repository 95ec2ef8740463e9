"""SGD as ``train`` describes it, with weight decay in the gradient or beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from training.config.train_config import Train
from training.model import resnet


class DecoupledSGD(torch.optim.SGD):
    """Fused SGD whose groups have a ``decoupled_decay``, which shrinks weights apart from the gradient's step.

    Each step multiplies them by 1 - ``decoupled_decay`` · lr / ``highest_lr``. Source: composer's DecoupledSGDW, whose
    ``initial_lr`` is the rate that its schedulers multiply. A step that a gradient scaler skips changes nothing; that
    is decided on the device.
    """

    def __init__(self, groups: list[dict[str, Any]], *, highest_lr: float, momentum: float, nesterov: bool) -> None:
        super().__init__(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=True)
        self.highest_lr = highest_lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        skipped: torch.Tensor | None = getattr(self, "found_inf", None)  # GradScaler sets it for the time of a step
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not (group["decoupled_decay"] and parameters):
                continue
            share = group["lr"] / self.highest_lr if self.highest_lr else 1.0
            decay = share * group["decoupled_decay"]
            torch._foreach_mul_(parameters, 1 - (decay if skipped is None else decay * (skipped == 0)))
        return super().step(closure)


def build(model: nn.Module, train: Train, *, highest_lr: float, momentum: float | None = None) -> torch.optim.SGD:
    """Fused SGD for ``model``; ``momentum`` in place of ``train.momentum``, ``highest_lr`` of the schedule."""
    momentum = train.momentum if momentum is None else momentum
    groups = resnet.parameter_groups(model, train.weight_decay, train.decay_norm, train.decay_bias)
    if train.decay_decoupled:
        for group in groups:
            group |= {"decoupled_decay": group["weight_decay"], "weight_decay": 0.0}
        return DecoupledSGD(groups, highest_lr=highest_lr, momentum=momentum, nesterov=train.nesterov)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=train.nesterov, fused=True)
