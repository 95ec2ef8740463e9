"""The thousand classes of the sample data set."""

from __future__ import annotations

import numpy as np
import pytest

from data_tools.sample import dataset, mixtures
from data_tools.sample.patterns import PATTERNS


def test_thousand_classes_are_all_mixtures_of_ten_figures_ten_grounds_and_ten_hues() -> None:
    looks = {(m.figure, m.ground, m.hue) for m in mixtures.MIXTURES.values()}
    assert len(mixtures.MIXTURES) == len(looks) == 1000
    assert [len(set(part)) for part in zip(*looks, strict=True)] == [10, 10, 10]


@pytest.mark.parametrize("side", [3, 4, 9])
def test_few_classes_differ_from_one_another_as_little_as_many(side: int) -> None:
    """So that a small set is not easier than a large one: every combination of a few figures, grounds and hues."""
    looks = [mixtures.MIXTURES[s.kind] for s in dataset.specs(classes=side**3, train=side**3, val=side**3)]
    parts = [{m.figure for m in looks}, {m.ground for m in looks}, {m.hue for m in looks}]
    assert [len(part) for part in parts] == [side, side, side]


def test_sizes_are_those_of_imagenet() -> None:
    """ImageNet's mean is 469 x 387, and 500 x 375 is its most frequent size."""
    rng = np.random.default_rng(0)
    sizes = np.array([mixtures.size(rng) for _ in range(4000)])
    assert sizes.mean(0) == pytest.approx((387, 469), rel=0.05)
    values, counts = np.unique(sizes, axis=0, return_counts=True)
    assert tuple(values[counts.argmax()]) == (375, 500)
    shorter = sizes.min(1)
    assert shorter.min() < 150 and shorter.max() > 1000


def test_pictures_of_a_class_share_hue_and_patterns_but_no_pixels() -> None:
    kind = "discs-stripes-3"
    pictures = [mixtures.render(kind, np.random.default_rng(seed)) for seed in range(20)]
    assert len({picture.resize((8, 8)).tobytes() for picture in pictures}) == 20
    hues = []
    for picture in pictures:
        hue, saturation, _ = np.asarray(picture.convert("HSV"), dtype=float).reshape(-1, 3).T
        hues.append(np.median(hue[saturation > 110]) / 256)  # of the figure; the ground is pale
    assert abs(np.median(hues) - 0.3) < 0.06


def test_ground_is_seen_in_every_figure() -> None:
    """Also between bricks, which leave little room: with another ground, the pixels differ everywhere."""
    for figure in PATTERNS:
        both = [mixtures.render(f"{figure}-{ground}-0", np.random.default_rng(1)) for ground in ("discs", "stripes")]
        first, second = (np.asarray(picture.convert("L"), dtype=float) for picture in both)
        assert (np.abs(first - second) > 10).mean() > 0.15, figure
