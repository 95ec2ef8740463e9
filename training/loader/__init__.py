"""Batches from betons: which samples, which crops, decoded and on the device."""

from training.loader.beton_reader import LoadError
from training.loader.loaders import TrainLoader, ValLoader

__all__ = ["LoadError", "TrainLoader", "ValLoader"]
