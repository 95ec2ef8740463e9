"""What equivalence.py prints: the scores of each seed, the tests and the verdict, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tost import Comparison, compare, values_needed

ARMS = ("ours", "torchvision")
MARGIN = 2.0  # points of top-1; set before anything was trained
ALPHA = 0.05
POWER = 0.8
MEASURES = {"top1": ("top-1, %", ".2f"), "top5": ("top-5, %", ".2f"), "train_loss": ("training loss", ".4f")}


def report(results: Sequence[dict[str, Any]], setting: dict[str, Any]) -> str:
    """Of ``results`` with the same seeds on both sides; only top-1 is tested."""
    by_arm = {arm: {r["seed"]: r for r in results if r["arm"] == arm} for arm in ARMS}
    seeds = sorted(by_arm[ARMS[0]])
    values = {(key, arm): [by_arm[arm][seed][key] for seed in seeds] for key in MEASURES for arm in ARMS}
    found = {key: compare(values[key, ARMS[0]], values[key, ARMS[1]], MARGIN, ALPHA) for key in MEASURES}
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    lines = [f"{setting['machine']}, {setting['device']}; {versions}", "", *_scores(seeds, values), ""]
    lines += [f"| ours - torchvision | difference | {100 - 200 * ALPHA:.0f} % interval |", "|---|---:|---:|"]
    for key, (name, form) in MEASURES.items():
        each = found[key]
        lines.append(f"| {name} | {each.difference:+{form}} | {each.low:+{form}} to {each.high:+{form}} |")
    return "\n".join([*lines, "", _verdict(found["top1"], *(values["top1", arm] for arm in ARMS))])


def _scores(seeds: list[int], values: dict[tuple[str, str], list[float]]) -> list[str]:
    columns = [(key, arm, form) for key, (_, form) in MEASURES.items() for arm in ARMS]
    names = [f"{arm}: {MEASURES[key][0]}" for key, arm, _ in columns]
    lines = [f"| seed | {' | '.join(names)} |", f"|---:|{'---:|' * len(columns)}"]
    for at, seed in enumerate(seeds):
        lines.append(f"| {seed} | " + " | ".join(f"{values[key, arm][at]:{form}}" for key, arm, form in columns) + " |")
    for name, of in (("mean", statistics.mean), ("deviation", statistics.stdev)):
        lines.append(f"| {name} | " + " | ".join(f"{of(values[key, arm]):{form}}" for key, arm, form in columns) + " |")
    return lines


def _verdict(top1: Comparison, ours: list[float], theirs: list[float]) -> str:
    deviation = ((statistics.variance(ours) + statistics.variance(theirs)) / 2) ** 0.5
    verdict = "equivalent" if top1.equivalent else "not shown to be equivalent"
    return (
        f"Top-1 within {MARGIN:g} points: {verdict} ({len(ours)} seeds each; p = {top1.p_lower:.2g} for lower by "
        f"{MARGIN:g} or more, {top1.p_upper:.2g} for higher). With the pooled deviation of {deviation:.2f}, "
        f"{values_needed(deviation, MARGIN, ALPHA, POWER)} seeds each give {100 * POWER:.0f} % power where both are "
        "the same."
    )
