"""Binary cross-entropy against composer's definition."""

import pytest
import torch
from torch.nn import functional

from training.model.loss import training_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.08])
@pytest.mark.parametrize("shares", [False, True])
def test_bce_is_composers(smoothing: float, shares: bool) -> None:
    """The sum over all logits, divided by the images, of targets smoothed to (1 - s) · target + s / classes."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 4, 4, 2, 3])
    one_hot = functional.one_hot(labels, 5).float()
    targets = one_hot * 0.7 + one_hot.roll(1, 0) * 0.3 if shares else one_hot
    smoothed = targets * (1 - smoothing) + smoothing / 5
    expected = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="sum") / 6
    found = training_loss("bce", smoothing)(logits, targets if shares else labels)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_bce_by_hand() -> None:
    # Logits of 0: each of 4 classes costs ln 2, whatever the target.
    assert training_loss("bce", 0.1)(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item() == pytest.approx(4 * 0.693147)
