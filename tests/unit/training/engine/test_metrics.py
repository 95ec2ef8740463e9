"""Loss and accuracy summed over batches, by hand."""

import math

import pytest
import torch

from training.distributed.world import World
from training.engine.metrics import MetricSums

CPU = torch.device("cpu")
ALONE = World(device=CPU)


def test_accuracy_and_mean_loss_over_batches() -> None:
    # Six classes; the label's rank in each row is 1, 2, 5, 6.
    logits = torch.tensor([[9.0, 0, 1, 2, 3, 4], [5, 9, 0, 1, 2, 3], [1, 2, 3, 4, 5, 9], [0, 2, 3, 4, 5, 9]])
    labels = torch.tensor([0, 0, 1, 0])
    sums = MetricSums(CPU)
    sums.add(logits, labels, torch.tensor(2.0))
    sums.add(logits[:1], labels[:1], torch.tensor(7.0))
    scores = sums.scores(ALONE)
    assert (scores.images, scores.top1, scores.top5) == (5, 40.0, 80.0)
    assert scores.loss == pytest.approx(3.0)


def test_loss_that_is_not_finite_is_left_out_of_the_mean_and_counted() -> None:
    logits, labels, sums = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]), MetricSums(CPU)
    for loss in (2.0, float("nan"), 4.0, float("inf")):
        sums.add(logits, labels, torch.tensor(loss))
    scores = sums.scores(ALONE)
    assert (scores.images, scores.finite, scores.loss, scores.top1) == (8, 4, 3.0, 50.0)
    none = MetricSums(CPU)
    none.add(logits, labels, torch.tensor(float("nan")))
    assert math.isnan(none.scores(ALONE).loss)


def test_logits_that_are_nan_are_no_hit() -> None:
    logits, sums = torch.tensor([[math.nan, math.nan], [0.0, 1.0]]), MetricSums(CPU)
    sums.add(logits, torch.tensor([0, 1]), torch.tensor(math.nan))
    assert (sums.scores(ALONE).top1, sums.scores(ALONE).top5) == (50.0, 50.0)


def test_top5_of_two_classes_is_100() -> None:
    sums = MetricSums(CPU)
    sums.add(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor(0.5))
    assert (sums.scores(ALONE).top1, sums.scores(ALONE).top5) == (50.0, 100.0)
