"""The patterns of the sample dataset's classes."""

import numpy as np

from data_tools.sample.dataset import SampleImage, specs
from data_tools.sample.patterns import PATTERNS, render

# Of pictures that the published scores of the demo were measured on, seeded 0, 1, 2...
MEAN_COLOURS = {
    "bricks": (167.2, 112.9, 87.1),
    "checks": (46.2, 115.6, 133.8),
    "clouds": (43.1, 136.3, 117.2),
    "crosses": (170.8, 180.2, 205.0),
    "discs": (172.7, 117.7, 129.4),
    "honeycomb": (82.0, 133.7, 112.6),
    "rings": (96.2, 97.3, 63.3),
    "stripes": (157.9, 144.9, 74.9),
    "triangles": (157.0, 144.7, 178.1),
    "waves": (154.4, 108.4, 166.2),
}


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


def test_pictures_of_the_demo_stay_the_same() -> None:
    means = [np.asarray(render(kind, 60, 80, np.random.default_rng(n))).mean((0, 1)) for n, kind in enumerate(PATTERNS)]
    np.testing.assert_allclose(means, [MEAN_COLOURS[kind] for kind in PATTERNS], atol=0.1)
