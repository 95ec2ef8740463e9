"""The statistics of benchmarks/equivalence.py, against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks import tost

SPREAD = (-1.5, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 0.0)  # mean 0, sum of squares 7


def around(mean: float) -> list[float]:
    return [mean + offset for offset in SPREAD]


def test_interval_is_that_worked_out_by_hand() -> None:
    """Equal variances of 7/9 and 10 values a side: 18 degrees of freedom, error sqrt(2 * 7/90), t 1.734."""
    found = tost.compare(around(50.3), around(50), margin=2, alpha=0.05)
    half = 1.7341 * math.sqrt(2 * 7 / 90)
    assert (found.difference, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=1e-4)


def test_unequal_variances_take_the_freedom_of_welch() -> None:
    """Variances 1 and 25 of 3 values: error^2 26/3, freedom 26^2 / ((1 + 625) / 2) = 2.16; t 2.92 of 2, 2.353 of 3."""
    found = tost.compare([1, 2, 3], [-3, 2, 7], margin=1, alpha=0.05)
    assert 2.353 < found.high / math.sqrt(26 / 3) < 2.92


@pytest.mark.parametrize(
    ("shift", "margin", "equivalent"),
    [
        (0, 2, True),
        (1.3, 2, True),  # the interval ends at 1.3 + 0.684
        (1.4, 2, False),
        (-1.3, 2, True),
        (-1.4, 2, False),
        (3, 2, False),
        (-3, 2, False),
        (0, 0.6, False),  # too narrow for this spread
        (3, 4, True),
    ],
)
def test_equivalent_is_where_the_whole_interval_is_within_the_margin(
    shift: float, margin: float, equivalent: bool
) -> None:
    found = tost.compare(around(50 + shift), around(50), margin, alpha=0.05)
    assert found.equivalent is equivalent
    assert equivalent is (-margin < found.low and found.high < margin)
    assert equivalent is (found.p_lower < 0.05 and found.p_upper < 0.05)


def test_the_side_that_fails_is_told() -> None:
    lower = tost.compare(around(47), around(50), margin=2, alpha=0.05)
    assert lower.p_lower > 0.95 and lower.p_upper < 0.001


def test_values_without_any_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="neither side"):
        tost.compare([50, 50], [50, 50], margin=2, alpha=0.05)


@pytest.mark.parametrize("deviation", [1.0, 1.5, 2.0, 3.0])
def test_values_needed_are_those_of_the_textbook(deviation: float) -> None:
    """With the normal distribution: 2 sd^2 (1.645 + 1.282)^2 / margin^2; the t distribution needs 1 or 2 more."""
    textbook = math.ceil(2 * deviation**2 * (1.6449 + 1.2816) ** 2 / 2**2)
    assert textbook <= tost.values_needed(deviation, margin=2, alpha=0.05, power=0.8) <= textbook + 2
