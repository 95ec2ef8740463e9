"""Which part of each image: random for training, centred for validation. Rows are (top, left, height, width, flip)."""

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.native.library import CROP, RandomCropRule, library

Sides = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class CropRule:
    """torchvision's RandomResizedCrop and a flip with probability 1/2, keyed on (seed, epoch, sample)."""

    seed: int
    epoch: int
    min_scale: float
    max_scale: float = 1.0
    min_ratio: float = 3 / 4
    max_ratio: float = 4 / 3

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(f"scales from {self.min_scale} to {self.max_scale} are not shares of an image's area")
        if not 0 < self.min_ratio <= self.max_ratio:
            raise ValueError(f"ratios from {self.min_ratio} to {self.max_ratio} are not a range of width / height")

    def native(self) -> ctypes.Structure:
        return RandomCropRule(
            self.seed & (1 << 64) - 1,
            self.epoch & (1 << 64) - 1,
            self.min_scale,
            self.max_scale,
            self.min_ratio,
            self.max_ratio,
        )


def random_crops(rule: CropRule, samples: NDArray[np.int64], widths: Sides, heights: Sides) -> NDArray[np.void]:
    """The crops of these samples, as an array of CROP. A sample's crop does not depend on the others in the array."""
    samples = np.ascontiguousarray(samples, np.int64)
    widths, heights = np.ascontiguousarray(widths, np.int32), np.ascontiguousarray(heights, np.int32)
    out = np.empty(len(samples), CROP)
    native = rule.native()
    library().native_crops(
        ctypes.byref(native),
        samples.ctypes.data,
        widths.ctypes.data,
        heights.ctypes.data,
        len(samples),
        out.ctypes.data,
    )
    return out


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
    follows the mean ratio, floored to a multiple of 8."""
    mean = float(np.mean(ratios))
    longer = int(px * max(mean, 1 / mean)) // 8 * 8
    return (px, max(px, longer)) if mean >= 1 else (max(px, longer), px)


@dataclass(kw_only=True, slots=True)
class RandomCrops:
    """Crops of one epoch to (px, px): random, keyed on (seed, epoch, sample)."""

    px: int
    min_scale: float
    seed: int
    epoch: int = 0

    def __post_init__(self) -> None:
        self._rule()  # which checks

    def _rule(self) -> CropRule:
        return CropRule(seed=self.seed, epoch=self.epoch, min_scale=self.min_scale)

    def of(self, samples: NDArray[np.int64], widths: Sides, heights: Sides) -> tuple[int, int, NDArray[np.void]]:
        """(height, width) of the batch and the crop of each sample; `widths` and `heights` are the samples' own."""
        return self.px, self.px, random_crops(self._rule(), samples, widths, heights)


@dataclass(kw_only=True, slots=True)
class CentreCrops:
    """The centre of each image, as squares of px or as rectangles of the batch's mean shape; ``resize`` as for
    `centre_crops`."""

    px: int
    rectangular: bool = False
    resize: int | None = None
    epoch: int = 0  # makes no difference

    def of(self, samples: NDArray[np.int64], widths: Sides, heights: Sides) -> tuple[int, int, NDArray[np.void]]:
        """As for RandomCrops."""
        height, width = rectangle(widths / heights, self.px) if self.rectangular else (self.px, self.px)
        return height, width, centre_crops(widths, heights, height, width, self.resize)
