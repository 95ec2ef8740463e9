"""The patterns of the sample dataset's classes."""

import numpy as np

from data_tools.sample.dataset import SampleImage, specs
from data_tools.sample.patterns import render


def rng(spec: SampleImage) -> np.random.Generator:
    return np.random.default_rng((spec.split == "val", spec.index))


def test_mean_colour_alone_does_not_tell_the_class() -> None:
    """Classes share their hue in pairs: the nearest mean colour must be wrong often, and right more than by chance."""
    images = specs(train=150, val=60)
    means = np.array([np.asarray(render(s.kind, 64, 80, rng(s))).mean((0, 1)) for s in images])
    kinds = np.array([s.kind for s in images])
    train = np.array([s.split == "train" for s in images])
    names = np.unique(kinds)
    centres = np.stack([means[train & (kinds == k)].mean(0) for k in names])
    nearest = names[((means[~train, None] - centres) ** 2).sum(-1).argmin(1)]
    assert 0.1 < (nearest == kinds[~train]).mean() < 0.75
