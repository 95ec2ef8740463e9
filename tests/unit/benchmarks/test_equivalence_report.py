"""The table and the verdict of benchmarks/equivalence.py."""

from __future__ import annotations

import importlib

import pytest
from helpers import ROOT

SPREAD = (-1.5, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 0.0)  # the 90 % interval of a difference is +- 0.684


@pytest.mark.parametrize(("shift", "verdict"), [(1.3, "equivalent"), (-1.4, "not shown to be equivalent")])
def test_verdict_is_that_of_top1_within_2_points(shift: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    report = importlib.import_module("equivalence_report").report
    results = [
        {"arm": arm, "seed": seed, "top1": mean + each, "top5": 5 * mean + each, "train_loss": 1 + each}
        for arm, mean in (("ours", 8 + shift), ("torchvision", 8))
        for seed, each in enumerate(SPREAD)
    ]
    text = report(results[::-1], {"machine": "M", "device": "cpu", "versions": {"torch": "2"}})
    assert f"| 0 | {6.5 + shift:.2f} | 6.50 |" in text
    assert f"| mean | {8 + shift:.2f} | 8.00 |" in text
    assert f"| top-1, % | {shift:+.2f} | {shift - 0.684:+.2f} to {shift + 0.684:+.2f} |" in text
    assert f"within 2 points: {verdict} (10 seeds each" in text
