"""Two one-sided tests (TOST) of whether two means are equivalent, by Welch's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import mpmath  # comes with torch, which needs sympy


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
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if not error:
        raise ValueError("the values of neither side differ")
    # Welch and Satterthwaite
    freedom = error**4 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (first, second), strict=True))
    difference = statistics.mean(first) - statistics.mean(second)
    half = t_quantile(1 - alpha, freedom) * error
    p_lower = t_tail((difference + margin) / error, freedom)
    p_upper = t_tail((margin - difference) / error, freedom)
    return Comparison(
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_lower=p_lower,
        p_upper=p_upper,
        equivalent=max(p_lower, p_upper) < alpha,
    )


def values_needed(deviation: float, margin: float, alpha: float, power: float) -> int:
    """How many values a side, at least 2, show equivalence with probability ``power`` where both means are the same.

    Source: Chow, Shao, Wang 2008, "Sample Size Calculations in Clinical Research", section 3.2.3, with the t
    distribution in place of the normal one.
    """
    values = 2
    while True:
        freedom, error = 2 * values - 2, deviation * math.sqrt(2 / values)
        if 1 - 2 * t_tail(margin / error - t_quantile(1 - alpha, freedom), freedom) >= power:
            return values
        values += 1


def t_tail(t: float, freedom: float) -> float:
    """The probability that Student's t is above ``t``."""
    outside = float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))
    return outside / 2 if t > 0 else 1 - outside / 2


def t_quantile(share: float, freedom: float) -> float:
    """The value that Student's t is below with probability ``share``, from 0.5 to 0.99."""
    return float(mpmath.findroot(lambda t: 1 - share - t_tail(float(t), freedom), (0, 40), solver="bisect"))
