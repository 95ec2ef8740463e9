"""Which part of each image: random for training, centred for validation. Rows are (top, left, height, width, flip)."""

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.native.library import CROP, RandomCropRule, library
from training.config.phases import LONGEST
from training.loader.sample_order import MASK

Sides = NDArray[np.int32]
RATIOS = 3 / 4, 4 / 3  # of width to height, as in torchvision


@dataclass(kw_only=True, slots=True)
class RandomCrops:
    """torchvision's RandomResizedCrop to (px, px), and a flip with probability 1/2, keyed on (seed, epoch, sample)."""

    px: int
    min_scale: float = 0.08
    seed: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"{self.min_scale} is not a share of an image's area")

    def rule(self) -> RandomCropRule:
        return RandomCropRule(self.seed & MASK, self.epoch & MASK, self.min_scale, 1.0, *RATIOS)

    def of(self, samples: NDArray[np.int64], widths: Sides, heights: Sides) -> tuple[int, int, NDArray[np.void]]:
        """(height, width) of the batch and the crop of each sample; `widths` and `heights` are the samples' own.

        A sample's crop does not depend on the others in the array.
        """
        samples = np.ascontiguousarray(samples, np.int64)
        widths, heights = np.ascontiguousarray(widths, np.int32), np.ascontiguousarray(heights, np.int32)
        out, rule = np.empty(len(samples), CROP), self.rule()
        inputs = samples.ctypes.data, widths.ctypes.data, heights.ctypes.data
        library().native_crops(ctypes.byref(rule), *inputs, len(samples), out.ctypes.data)
        return self.px, self.px, out


@dataclass(kw_only=True, slots=True)
class CentreCrops:
    """The centre of each image, as squares of px or as rectangles of the batch's mean shape; ``resize`` as for
    `centre_crops`."""

    px: int
    rectangular: bool = False
    resize: int | None = None
    epoch: int = 0  # makes no difference

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < self.px:
            raise ValueError(f"a shorter side of {self.resize} px holds no crop of {self.px} px")

    def of(self, samples: NDArray[np.int64], widths: Sides, heights: Sides) -> tuple[int, int, NDArray[np.void]]:
        """As for RandomCrops."""
        height, width = rectangle(widths / heights, self.px) if self.rectangular else (self.px, self.px)
        return height, width, centre_crops(widths, heights, height, width, self.resize)


def centre_crops(
    widths: Sides, heights: Sides, out_height: int, out_width: int, resize: int | None = None
) -> NDArray[np.void]:
    """Resizing the shorter side to ``resize`` and a centre crop of (out_height, out_width), as one crop.

    By default ``resize`` is int(px * 1.14), px being the shorter side of the crop.

    An image too narrow for the crop gives the largest part of the same shape instead of black bars.
    """
    widths, heights = np.asarray(widths, np.float64), np.asarray(heights, np.float64)
    resize = resize or int(min(out_height, out_width) * 1.14)
    scale = np.minimum(widths, heights) / max(1, resize)
    scale = np.minimum(scale, np.minimum(widths / out_width, heights / out_height))
    out = np.zeros(len(widths), CROP)
    for side, whole, start, wanted in (("height", heights, "top", out_height), ("width", widths, "left", out_width)):
        out[side] = np.maximum(1, np.rint(wanted * scale))
        out[start] = (whole - out[side]) // 2
    return out


def rectangle(ratios: NDArray[np.float64], px: int) -> tuple[int, int]:
    """(height, width) of a batch of images with these ratios of width to height: the shorter side is px, the longer
    follows the mean ratio, floored to a multiple of 8. A ratio beyond LONGEST counts as that, either way."""
    mean = float(np.mean(np.clip(ratios, 1 / LONGEST, LONGEST)))
    longer = max(px, int(px * max(mean, 1 / mean)) // 8 * 8)
    return (px, longer) if mean >= 1 else (longer, px)
