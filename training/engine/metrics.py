"""Loss and accuracy as sums on the device."""

import math

import torch

from training.distributed.world import World, sum_over_ranks
from training.runlog.epoch_table import Scores


class MetricSums:
    """Running sums (images, loss, top-1 hits, top-5 hits, images whose loss is finite). Adding does not wait for the
    device, reading does."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Count a batch: ``logits`` (n, classes), ``labels`` (n,), mean ``loss`` ()."""
        highest, classes = logits.detach().topk(min(5, logits.shape[1]), dim=1)
        hit = (classes == labels[:, None]) & highest[:, :1].isfinite()  # nan is above all numbers, and is no answer
        count = len(labels)
        loss = loss.detach().double()
        finite = torch.isfinite(loss)
        self.sums[0] += count
        self.sums[1:] += torch.stack(
            [
                torch.where(finite, loss, 0) * count,
                hit[:, 0].sum().double(),
                hit.sum().double(),
                finite.double() * count,
            ]
        )

    def over_ranks(self, world: World) -> list[float]:
        """The sums over all processes; every process must call it."""
        sums: list[float] = sum_over_ranks(self.sums.clone(), world).tolist()
        return sums

    def scores(self, world: World) -> Scores:
        """The sums over all processes as scores; every process must call it."""
        return scores_of(self.over_ranks(world))


def over_batch(losses: list[torch.Tensor], world: World) -> list[float]:
    """The ``losses`` () of steps, each a mean over this process's share, as means over the global batches.

    Waits for the device; every process must call it.
    """
    sums: list[float] = sum_over_ranks(torch.stack(losses).double(), world).tolist()
    return [total / world.ranks for total in sums]


def scores_of(sums: list[float]) -> Scores:
    """The scores of sums like those of :class:`MetricSums`."""
    images, loss, top1, top5, finite = sums
    share = 1 / max(images, 1)
    mean = loss * (1 / finite) if finite else math.nan
    return Scores(
        images=round(images), finite=round(finite), loss=mean, top1=100 * top1 * share, top5=100 * top5 * share
    )
