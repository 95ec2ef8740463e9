"""Random crops against torchvision's distribution, centre crops and rectangles against numbers by hand."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from training.loader.crops import RandomCrops, centre_crops, rectangle

COUNT, MANY = 4000, 100_000


def ours(width: int, height: int, seed: int = 0, count: int = COUNT, **rule: float) -> np.ndarray:
    samples = np.arange(count)
    sides = np.full(count, width, np.int32), np.full(count, height, np.int32)
    _, _, crops = RandomCrops(px=1, seed=seed, **rule).of(samples, *sides)
    return np.stack([crops[name] for name in ("top", "left", "height", "width", "flip")], 1).astype(float)


def torchvisions(width: int, height: int, min_scale: float = 0.08, count: int = COUNT) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = RandomResizedCrop.get_params
    return np.array([draw(image, [min_scale, 1.0], [3 / 4, 4 / 3]) for _ in range(count)], float)


def same_distribution(a: np.ndarray, b: np.ndarray) -> bool:
    """Kolmogorov and Smirnov's test at p = 0.001."""
    both = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(each), both, side="right") / len(each) for each in (a, b)]
    return bool(np.abs(below[0] - below[1]).max() < 1.95 * np.sqrt(1 / len(a) + 1 / len(b)))


@pytest.mark.parametrize("size", [(213, 160), (160, 160), (120, 500), (500, 100)])
@pytest.mark.parametrize("min_scale", [0.08, 0.5])
@pytest.mark.parametrize("count", [COUNT, pytest.param(MANY, marks=pytest.mark.slow)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], min_scale: float, count: int) -> None:
    """Of the last two sizes, many crops at 0.5 are the fallback after ten tries."""
    a, b = ours(*size, min_scale=min_scale, count=count), torchvisions(*size, min_scale, count)
    width, height = size
    for of in (
        lambda crop: crop[:, 2] * crop[:, 3],  # area
        lambda crop: np.log(crop[:, 3] / crop[:, 2]),  # ratio
        lambda crop: crop[:, 0] / np.maximum(1, height - crop[:, 2]),  # position
        lambda crop: crop[:, 1] / np.maximum(1, width - crop[:, 3]),
    ):
        assert same_distribution(of(a), of(b))
    assert (a[:, 0] + a[:, 2] <= height).all() and (a[:, 1] + a[:, 3] <= width).all() and (a[:, :4] >= 0).all()


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 400), (1, 1)])
def test_fallback_after_ten_tries_equals_torchvision(size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(ours(*size, min_scale=1.0)[:, :4], torchvisions(*size, 1.0))


def test_half_of_the_crops_are_flipped() -> None:
    crops = ours(213, 160)
    assert abs(crops[:, 4].mean() - 0.5) < 0.03
    assert same_distribution(crops[crops[:, 4] == 0, 2], crops[crops[:, 4] == 1, 2])


def test_crop_depends_on_seed_epoch_and_sample_only() -> None:
    samples = np.arange(100)
    widths, heights = np.arange(100, 200, dtype=np.int32), np.arange(250, 150, -1, dtype=np.int32)
    crops = RandomCrops(px=1, seed=3, epoch=4)
    _, _, whole = crops.of(samples, widths, heights)
    some = np.array([77, 5, 30])
    np.testing.assert_array_equal(crops.of(some, widths[some], heights[some])[2], whole[some])
    for other in (RandomCrops(px=1, seed=4, epoch=4), RandomCrops(px=1, seed=3, epoch=5)):
        assert (other.of(samples, widths, heights)[2] != whole).mean() > 0.9


def test_neighbouring_samples_and_epochs_are_independent() -> None:
    samples, sides = np.arange(COUNT), np.full(COUNT, 1000, np.int32)
    epochs = [RandomCrops(px=1, epoch=epoch).of(samples, sides, sides)[2] for epoch in (0, 1)]
    for name in ("top", "height", "flip"):
        first, second = (each[name].astype(float) for each in epochs)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
        assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.06


def test_centre_crops_by_hand() -> None:
    # Resize(145) makes 213 x 160 into 193 x 145; 128 of 145 is 141.2 of 160.
    crop = centre_crops(np.array([213, 160, 128]), np.array([160, 213, 128]), 128, 128)
    assert crop.tolist() == [(9, 36, 141, 141, 0), (36, 9, 141, 141, 0), (7, 7, 113, 113, 0)]
    # Resize(232) makes 500 x 375 into 309 x 232; 224 of 232 is 362.07 of 375.
    assert centre_crops(np.array([500]), np.array([375]), 224, 224, 232).tolist() == [(6, 69, 362, 362, 0)]
    # As large as the shorter side: all of it. A rectangle, too, has its shorter side from there.
    assert centre_crops(np.array([500]), np.array([375]), 224, 224, 224).tolist() == [(0, 62, 375, 375, 0)]
    assert centre_crops(np.array([500]), np.array([375]), 224, 280, 232).tolist() == [(6, 23, 362, 453, 0)]
    # An image narrower than the rectangle.
    assert centre_crops(np.array([500]), np.array([400]), 128, 256).tolist() == [(75, 0, 250, 500, 0)]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [([1.5], (288, 432)), ([4 / 3] * 2, (288, 384)), ([1.0], (288, 288)), ([0.75], (384, 288)), ([1.01], (288, 288))],
)
def test_rectangle_of_a_batch_by_hand(ratios: list[float], expected: tuple[int, int]) -> None:
    assert rectangle(np.array(ratios), 288) == expected
