"""Batches from betons: which samples, which crops, decoded and on the device."""

import torch

# FFCV sets torch's number of threads when it is imported, which is not its to set here.
_threads = torch.get_num_threads()
import ffcv.loader  # noqa: E402, F401

torch.set_num_threads(_threads)

from training.loader.beton_reader import LoadError  # noqa: E402
from training.loader.loaders import TrainLoader, ValLoader  # noqa: E402

__all__ = ["LoadError", "TrainLoader", "ValLoader"]
