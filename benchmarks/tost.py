"""Two one-sided tests (TOST) of whether two means are equivalent, by Welch's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats  # type: ignore[import-untyped]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``difference`` of two means, its confidence interval ``low`` to ``high`` at 1 - 2 alpha, and the p of each test:
    that the difference is not above -margin, and that it is not below margin."""

    difference: float
    low: float
    high: float
    p_lower: float
    p_upper: float
    equivalent: bool


def compare(first: Sequence[float], second: Sequence[float], margin: float, alpha: float) -> Comparison:
    """Whether the mean of ``first`` less that of ``second`` is between -margin and margin, by both tests at ``alpha``.

    Each needs two values, and one of them values that differ.
    """
    if len({*first}) == len({*second}) == 1:
        raise ValueError("the values of neither side differ")
    low, high = welch(first, second).confidence_interval(1 - 2 * alpha)
    p_lower = float(welch([value + margin for value in first], second, "greater").pvalue)
    p_upper = float(welch([value - margin for value in first], second, "less").pvalue)
    return Comparison(
        difference=statistics.mean(first) - statistics.mean(second),
        low=float(low),
        high=float(high),
        p_lower=p_lower,
        p_upper=p_upper,
        equivalent=max(p_lower, p_upper) < alpha,
    )


def welch(first: Sequence[float], second: Sequence[float], alternative: str = "two-sided") -> Any:
    return stats.ttest_ind(first, second, equal_var=False, alternative=alternative)


def values_needed(deviation: float, margin: float, alpha: float, power: float) -> int:
    """How many values a side, at least 2, show equivalence with probability ``power`` where both means are the same.

    Source: Chow, Shao, Wang 2008, "Sample Size Calculations in Clinical Research", section 3.2.3, with the t
    distribution in place of the normal one.
    """
    values = 2
    while True:
        freedom, error = 2 * values - 2, deviation * math.sqrt(2 / values)
        if 1 - 2 * stats.t.sf(margin / error - stats.t.ppf(1 - alpha, freedom), freedom) >= power:
            return values
        values += 1
