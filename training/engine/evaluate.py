"""Validation: exact top-1 and top-5, counting each image once."""

import itertools

import torch
from torch import nn

from training.distributed.stop_signals import StopSignals
from training.distributed.world import World, copy_from_main
from training.engine.metrics import MetricSums
from training.engine.step import Predictor
from training.loader.loaders import ValLoader
from training.runlog.epoch_table import Scores


class EvaluationStopped(Exception):
    """A signal stopped the validation; there are no scores."""


@torch.inference_mode()
def evaluate(predict: Predictor, loader: ValLoader, world: World, signals: StopSignals | None = None) -> Scores:
    """Scores of the model over the whole set of ``loader``, whatever the number of processes.

    EvaluationStopped, in every process, as soon as ``signals`` ask to stop.
    """
    model = predict.model
    # BatchNorm statistics are local while training, as published; all processes must validate the same model.
    copy_from_main(model.buffers(), world)
    was_training = model.training
    model.eval()
    sums = MetricSums(world.device)
    tuned = torch.backends.cudnn.benchmark
    try:
        batches = iter(loader)
        for _ in range(loader.rounds):  # some processes have one batch less, but all must poll equally often
            for images, labels in itertools.islice(batches, 1):
                # Almost every rectangle is a new shape, and so is the last batch where it is smaller: tuning cuDNN for
                # it would take longer than using it once.
                torch.backends.cudnn.benchmark = tuned and not loader.rectangular and len(images) == loader.batch
                logits = predict(images)
                sums.add(logits, labels, nn.functional.cross_entropy(logits, labels))
            if signals is not None and signals.poll()[0]:
                raise EvaluationStopped
    finally:
        torch.backends.cudnn.benchmark = tuned
        model.train(was_training)
    return sums.scores(world)
