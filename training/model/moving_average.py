"""Averaged weights: an exponential moving average of a model's parameters and BatchNorm statistics."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn


class MovingAverage(nn.Module):
    """``module`` is the average of a model over its updates; the first one copies the model.

    The state dict and the bits of torch's AveragedModel with ``get_ema_multi_avg_fn`` and ``use_buffers``, which waits
    for the device twice a step, and launches four kernels for each of BatchNorm's counts of batches to average them.
    Here they are copied.
    """

    n_averaged: torch.Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))  # on the host, so reading it is free

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in ``model`` as it is after a step. Does not wait for the device."""
        ours, theirs = (itertools.chain(net.parameters(), net.buffers()) for net in (self.module, model))
        pairs = list(zip(ours, theirs, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        if self.n_averaged == 0:
            _copy(floats)
        else:
            torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - self.decay)
        _copy(counts)
        self.n_averaged += 1


def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
