"""The training losses."""

import torch
from torch import nn


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of every class against the others, summed over the classes and averaged over the images.

    Source: composer's ``binary_cross_entropy_with_logits`` and its label smoothing: a target is
    (1 - smoothing) · share + smoothing / classes.
    """

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of ``logits`` (n, classes) and class numbers (n,) or class shares (n, classes)."""
        everywhere, own = self.label_smoothing / logits.shape[1], 1 - self.label_smoothing
        if targets.is_floating_point():
            wanted = targets.to(logits.dtype) * own + everywhere
        else:
            wanted = torch.full_like(logits, everywhere).scatter(1, targets[:, None], own + everywhere)
        total = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return total / len(logits)


def training_loss(kind: str, label_smoothing: float) -> nn.Module:
    """The loss that ``train.loss`` names, of logits and class numbers or shares."""
    if kind == "bce":
        return BinaryCrossEntropy(label_smoothing)
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
