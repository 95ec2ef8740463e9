"""A thousand classes of images: one pattern in a hue, on another pattern in grey, in the sizes of ImageNet's."""

from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_tools.sample.patterns import PATTERNS, as_pixels, colours, enlarged, ink, light

HUES = 10
# In turns; hues are 0.1 apart, so that 1 picture in 11 has the hue of the neighbour. With the grey ones, no network can
# tell more than 89 % of a thousand classes.
HUE_SPREAD = 0.055
FIGURE, GROUND = (0.18, 0.3), (0.08, 0.12)  # periods, as fractions of the shorter side


class Mixture(NamedTuple):
    """The look of a class: ``figure`` and ``ground`` are kinds of pattern, ``hue`` is a tenth of a turn."""

    figure: str
    ground: str
    hue: int


def _mixtures() -> dict[str, Mixture]:
    """By name, in an order in which the first n³ have n figures, n grounds and n hues: however few classes there are,
    each differs from some others in nothing but its figure, its ground or its hue."""
    kinds = list(PATTERNS)
    codes = sorted(product(range(len(kinds)), range(len(kinds)), range(HUES)), key=lambda code: (max(code), code))
    return {f"{kinds[f]}-{kinds[g]}-{h}": Mixture(kinds[f], kinds[g], h) for f, g, h in codes}


MIXTURES = _mixtures()


def size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: as in ImageNet, mostly 500 px on the longer side, 3:2 or 4:3, and three in four landscape."""
    longer = 500 if rng.random() < 0.75 else int(np.clip(rng.lognormal(6.1, 0.5), 120, 2000))
    ratio = (4 / 3, 3 / 2, 1.0, rng.uniform(1, 2))[rng.choice(4, p=(0.45, 0.3, 0.05, 0.2))]
    shorter = max(round(longer / ratio), 80)
    return (longer, shorter) if rng.random() < 0.25 else (shorter, longer)


def render(kind: str, rng: np.random.Generator) -> Image.Image:
    """One picture of the class `kind`, drawn at half size, enlarged, grain added."""
    mixture, (height, width) = MIXTURES[kind], size(rng)
    half = (height + 1) // 2, (width + 1) // 2
    figure_ink, ground_ink = ink(mixture.figure, FIGURE, *half, rng), ink(mixture.ground, GROUND, *half, rng)
    figure, ground = colours(mixture.hue / HUES, HUE_SPREAD, rng)
    shade = light(*half, rng)
    # Weaker in the figure, but there: little of the ground is seen between bricks.
    contrast = np.float32(rng.choice((-1, 1)) * rng.uniform(40, 90)) * (1 - figure_ink / 2)
    texture = (ground_ink - np.float32(0.5)) * contrast
    picture = as_pixels((g + texture + figure_ink * (f - g)) * shade for f, g in zip(figure, ground, strict=True))
    return enlarged(picture, height, width, int(rng.integers(1, 10)), rng)
