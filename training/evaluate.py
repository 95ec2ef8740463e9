"""Validation: exact top-1 and top-5, each image once."""

from __future__ import annotations

import torch
from torch import nn

from training.distributed import World, share_buffers
from training.loaders import ValLoader
from training.metrics import Scores, Tally
from training.step import Predictor


@torch.inference_mode()
def evaluate(predict: Predictor, loader: ValLoader, place: World) -> Scores:
    """Scores of the model over the whole set of ``loader``, whatever the number of processes."""
    model = predict.model
    share_buffers(model, place)
    was_training = model.training
    model.eval()
    tally = Tally(place.device)
    # Each rectangle is a shape of its own: tuning cuDNN for it would take longer than using it once.
    tuned = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tuned and not loader.rectangular
    for images, labels in loader:
        logits = predict(images)
        tally.add(logits, labels, nn.functional.cross_entropy(logits, labels))
    torch.backends.cudnn.benchmark = tuned
    model.train(was_training)
    return tally.scores(place)
