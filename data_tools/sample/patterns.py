"""Images of ten kinds of pattern, bent, unevenly lit and grainy, for the sample data set (numpy and PIL only)."""

# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for every ufunc; each pattern below ends in one.

from collections.abc import Callable, Iterable
from colorsys import hsv_to_rgb
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

Plane: TypeAlias = NDArray[np.floating[Any]]  # (height, width), single precision
TAU = np.float32(2 * np.pi)


# --- coordinates in periods -> coverage, above 0 inside the figure and below 0 outside ---


def _cell(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    """Coordinates from the middle of each unit cell, (-0.5, 0.5); odd rows are shifted by half a cell."""
    row = np.floor(v)
    return (u + 0.5 * (row % 2)) % 1 - np.float32(0.5), v - row - np.float32(0.5)


def bricks(u: Plane, v: Plane) -> Plane:
    x, y = _cell(u / 2, v)
    return np.minimum(0.46 - np.abs(x), (0.42 - np.abs(y)) / 2)


def checks(u: Plane, v: Plane) -> Plane:
    return np.sin(TAU / 2 * u) * np.sin(TAU / 2 * v)


def clouds(u: Plane, v: Plane) -> Plane:
    """Sines at incommensurable angles, bent by one another: blotches without a period."""
    a = np.sin(TAU * (0.31 * u + 0.17 * v) + 1.7 * np.sin(TAU * (0.12 * u - 0.23 * v)))
    b = np.sin(TAU * (0.41 * v - 0.13 * u) + 1.9 * np.sin(TAU * (0.19 * v + 0.29 * u)))
    return (a + b) * np.float32(0.35)


def crosses(u: Plane, v: Plane) -> Plane:
    x, y = (np.abs(c) for c in _cell(u * 0.8, v * 0.8))
    return np.minimum(0.09 - np.minimum(x, y), 0.4 - np.maximum(x, y))


def discs(u: Plane, v: Plane) -> Plane:
    x, y = _cell(u * 0.8, v * 0.8)
    return 0.34 - np.hypot(x, y)


def honeycomb(u: Plane, v: Plane) -> Plane:
    """Walls between hexagons: the centres are two interleaved grids, the nearer one counts."""
    height = np.float32(3**0.5)
    x1, y1 = u % 1 - np.float32(0.5), v % height - height / 2
    x2, y2 = (u + np.float32(0.5)) % 1 - np.float32(0.5), (v + height / 2) % height - height / 2
    second = x1 * x1 + y1 * y1 > x2 * x2 + y2 * y2
    x, y = np.abs(np.where(second, x2, x1)), np.abs(np.where(second, y2, y1))
    return np.maximum(x, x / 2 + y * height / 2) - 0.42


def rings(u: Plane, v: Plane) -> Plane:
    x, y = _cell(u * 0.6, v * 0.6)
    return 0.09 - np.abs(np.hypot(x, y) - 0.34)


def stripes(u: Plane, v: Plane) -> Plane:
    del v
    return np.sin(TAU * u) * np.float32(0.7) + np.float32(0.4)


def triangles(u: Plane, v: Plane) -> Plane:
    x, y = _cell(u * 0.7, v * 0.7)
    return np.minimum(y + 0.36, (0.4 - y) * 0.5 - np.abs(x) * 0.95)


def waves(u: Plane, v: Plane) -> Plane:
    return np.sin(TAU * (u + 0.35 * np.sin(TAU * 0.45 * v))) * np.float32(0.7)


PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    f.__name__: f for f in (bricks, checks, clouds, crosses, discs, honeycomb, rings, stripes, triangles, waves)
}


# Each hue belongs to two patterns, a fine and a coarse one: colour alone is right half of the time, and by shape
# alone a small network would learn too slowly for a demonstration.
FINE, COARSE = (0.1, 0.16), (0.18, 0.27)
PAIRS = (
    ("bricks", "discs"),
    ("stripes", "rings"),
    ("honeycomb", "clouds"),
    ("checks", "crosses"),
    ("waves", "triangles"),
)
STYLES = {  # the hue of a kind in turns, and the range of its period as a fraction of the shorter side
    kind: (number / len(PAIRS), period)
    for number, pair in enumerate(PAIRS)
    for kind, period in zip(pair, (FINE, COARSE), strict=True)
}


# --- a picture of a pattern: any angle, period, colours, light, bend, and grain ---


def _smooth_field(rng: np.random.Generator, height: int, width: int, knots: int) -> Plane:
    """A smooth random field in (-1, 1): a few random values, enlarged."""
    values = Image.fromarray(rng.uniform(-1, 1, (knots, knots)).astype(np.float32))
    return np.asarray(values.resize((width, height), Image.Resampling.BICUBIC))


def colours(hue: float, spread: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """RGB in 0..255 of the figure, within ``spread`` of ``hue``, and of a pale ground of clearly different
    brightness."""
    while True:
        figure = np.multiply(255, hsv_to_rgb(hue + rng.uniform(-spread, spread), *rng.uniform((0.5, 0.4), 1)))
        ground = np.multiply(255, hsv_to_rgb(rng.uniform(0, 1), *rng.uniform(0, (0.25, 1))))
        if abs((figure - ground) @ (0.299, 0.587, 0.114)) > 80:
            return figure.astype(np.float32), ground.astype(np.float32)


def ink(kind: str, periods: tuple[float, float], height: int, width: int, rng: np.random.Generator) -> Plane:
    """(height, width), 0 to 1: where the pattern is, at any angle and period, bent, somewhat out of focus."""
    period = rng.uniform(*periods) * min(height, width)
    angle, aspect, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.25), np.float32(rng.uniform(0, 0.25))
    ys = np.arange(height, dtype=np.float32)[:, None] / np.float32(period)
    xs = np.arange(width, dtype=np.float32) / np.float32(period)
    cos, sin = np.cos(angle), np.sin(angle)
    u = np.float32(cos * aspect) * xs + np.float32(sin * aspect) * ys
    v = np.float32(cos) * ys - np.float32(sin) * xs
    for plane, shift in zip((u, v), rng.uniform(0, 64, 2).astype(np.float32), strict=True):
        plane += bend * _smooth_field(rng, height, width, 4) + shift

    softness = np.float32(rng.uniform(0.04, 0.15))  # in periods
    return np.clip(PATTERNS[kind](u, v) / softness + np.float32(0.5), 0, 1)


def light(height: int, width: int, rng: np.random.Generator) -> Plane:
    """(height, width), near 1: uneven light."""
    return 1 + np.float32(rng.uniform(0.05, 0.35)) * _smooth_field(rng, height, width, 3)


def as_pixels(channels: Iterable[Plane]) -> Image.Image:
    return Image.fromarray(np.stack([np.clip(c, 0, 255).astype(np.uint8) for c in channels], axis=-1))


def enlarged(picture: Image.Image, height: int, width: int, grain: int, rng: np.random.Generator) -> Image.Image:
    """``picture``, which is smooth, at another size, with noise of at most ``grain``."""
    noise = Image.fromarray(rng.integers(0, 2 * grain + 1, (height, width), np.uint8))
    larger = picture.resize((width, height), Image.Resampling.BICUBIC)
    return ImageChops.add(larger, Image.merge("RGB", (noise, noise, noise)), offset=-grain)


def render(kind: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """One picture of the pattern `kind`, drawn at half size, enlarged, grain added."""
    half = (height + 1) // 2, (width + 1) // 2
    hue, period = STYLES[kind]
    figure_ink, shade = ink(kind, period, *half, rng), light(*half, rng)
    figure, ground = colours(hue, 0.07, rng)
    picture = as_pixels((g + figure_ink * (f - g)) * shade for f, g in zip(figure, ground, strict=True))
    return enlarged(picture, height, width, int(rng.integers(1, 17)), rng)
