"""Averaged weights: an exponential moving average of a model's parameters and BatchNorm statistics."""

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import nn


class MovingAverage:
    """``module`` is the average of a model over every ``every``-th of its ``steps``; the first step copies the model.

    Same bits and state dict as torch's AveragedModel with ``get_ema_multi_avg_fn`` and ``use_buffers``, which waits
    for the device twice per step, and launches four kernels for each of BatchNorm's counts of batches to average them.
    Here they are copied.
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 1) -> None:
        self.decay, self.every = decay, every
        self.module = copy.deepcopy(model)
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call it after each step: takes in ``model`` if an update is due. Does not wait for the device."""
        self.steps += 1
        if self.steps > 1 and self.steps % self.every:
            return
        ours, theirs = (itertools.chain(net.parameters(), net.buffers()) for net in (self.module, model))
        pairs = list(zip(ours, theirs, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        if self.steps > 1:
            torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - self.decay)
        else:
            _copy(floats)
        _copy([pair for pair in pairs if not pair[0].is_floating_point()])

    def state_dict(self) -> dict[str, torch.Tensor]:
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.steps), **tensors}

    def load_state_dict(self, saved: Mapping[str, torch.Tensor]) -> None:
        tensors = dict(saved)
        self.steps = int(tensors.pop("n_averaged"))
        self.module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()})


def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
