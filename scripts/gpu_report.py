"""The results of the program for the first GPU: its goals, and its table."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = ("ours", "img/s", "x ours", "x ffcv-imagenet", "x torchvision", "path x step", "data-wait %", "x MLPerf")
# Images/s of each H200 in NVIDIA's entry for MLPerf Training v4.0: 224 px, fp16, 400 images a step.
MLPERF = 7950
NOT_VARIANTS = {"ours", "ours_whole_path", "ffcv_imagenet", "torchvision"}
# The goals at 224 px: a value in a benchmark's row (name, baseline, key), and its limit.
WANTED = (
    ("step, x ffcv-imagenet's, >= 1.25", ("ours", "ffcv_imagenet", "ratio"), operator.ge, 1.25),
    ("whole path, x the step alone, >= 0.97", ("ours_whole_path", "ours", "ratio"), operator.ge, 0.97),
    ("data-wait, %, < 2", ("ours_whole_path", "ours", "data_wait_percent"), operator.lt, 2),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """``status``: "done", or why not; ``tests`` by outcome; ``rows`` of the benchmark."""

    name: str
    status: str
    seconds: float = 0.0
    tests: dict[str, list[str]] | None = None
    rows: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One of WANTED; ``measured`` is None if it was not run, ``met`` also if no GPU was measured."""

    text: str
    measured: float | None
    met: bool | None


def outcomes(output: str) -> dict[str, list[str]]:
    """The tests that `pytest -v -n N` has finished, by outcome; it may have been stopped before its summary."""
    found: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "ERROR": [], "SKIPPED": []}
    for outcome, name in re.findall(
        r"^\[gw\d+\] .*?(PASSED|FAILED|ERROR|SKIPPED) tests/(\S+::.+?) *$", output, re.MULTILINE
    ):
        found[outcome].append(name)
    return found


def value_of(results: Sequence[Result], part: str, name: str, baseline: str, key: str) -> float | None:
    """The value of ``key`` in a benchmark's row; None if it was not run."""
    rows = [row for each in results if each.name == part for row in each.rows]
    found = [row[key] for row in rows if row["name"] == name and row["baseline"] == baseline]
    return found[0] if found else None


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float | None]:
    """The columns of the table for one of ``rows``'s contenders."""
    against = {row["baseline"]: row for row in rows if row["name"] == name}
    rate = next((row["images_per_s"] for row in against.values()), None)
    ratios = [against.get(other, {}).get("ratio") for other in ("ours", "ffcv_imagenet", "torchvision")]
    path = next((row for row in rows if row["name"] == f"{name}_whole_path"), {})
    mlperf = rate and round(rate / MLPERF, 3) if any(row.get("case") == "224" for row in rows) else None
    return [rate, *ratios, path.get("ratio"), path.get("data_wait_percent"), mlperf]


def goals(results: Sequence[Result], *, on_gpu: bool) -> list[Goal]:
    found = []
    for text, row, holds, limit in WANTED:
        measured = value_of(results, "step 224", *row)
        met = holds(measured, limit) if on_gpu and measured is not None else None
        found.append(Goal(text=text, measured=measured, met=met))
    return found


def _bandwidths(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    line = "{:<8}{:>10}  {:<20}{:>8}{:>8}"
    yield "\n" + line.format("px", "channels", "BatchNorm", "ms", "TB/s")
    for row in rows:
        yield line.format(*(row[key] for key in ("side", "channels", "name", "ms", "tb_per_s")))


def table(machine: dict[str, Any], results: Sequence[Result], wanted: Sequence[Goal]) -> Iterator[str]:
    """Lines for a reader."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield f"{machine['device']}; driver {machine['driver']}, CUDA {machine['cuda']}; {versions}"
    yield f"\n{'part':<24}{'seconds':>8}  {'':<10}"
    for each in results:
        tests = {outcome: len(names) for outcome, names in (each.tests or {}).items() if names}
        counts = ", ".join(f"{count} {outcome.lower()}" for outcome, count in tests.items())
        yield f"{each.name:<24}{each.seconds:>8.1f}  {each.status}{f' ({counts})' if counts else ''}"
    line = "{:<24}{:>8}{:>8}{:>17}{:>15}{:>13}{:>13}{:>10}"
    yield "\n" + line.format(*COLUMNS)
    for each in results:
        if each.name.startswith(("step", "variants", "max-autotune")):
            variants = [row["name"] for row in each.rows if row["name"] not in NOT_VARIANTS]
            for name in ("ours", *variants):
                shown = ["not run" if value is None else f"{value:g}" for value in _values(each.rows, name)]
                yield line.format(each.name if name == "ours" else f"  {name}", *shown)
    yield from _bandwidths(row for each in results if each.name == "kernels" for row in each.rows)
    yield f"\n{'goal at 224 px':<40}{'measured':>10}"
    for goal in wanted:
        measured = "not run" if goal.measured is None else f"{goal.measured:g}"
        verdict = {None: "", True: "  met", False: "  missed"}[goal.met]
        yield f"{goal.text:<40}{measured:>10}{verdict}"
