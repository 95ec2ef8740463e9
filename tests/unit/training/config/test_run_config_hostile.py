"""Whatever a recipe or a command line holds gives a configuration or lines of error, and no other exception."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.recipes import config, mistakes
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.common.options import OptionError, options_of, parse
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Schedule

TITAN8 = as_mapping(config("titan8"))
NUMBERS = st.one_of(st.integers(-3, 600), st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 0, -1, 10**30]))
ANY_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
QUICK = settings(max_examples=60, deadline=None)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a nested structure."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def lines(found: list[OptionError]) -> list[str]:
    assert all(str(each) and "\n" not in str(each) for each in found)
    return [str(each) for each in found]


@QUICK
@given(place=st.sampled_from([p for p in places(TITAN8) if p]), value=ANY_VALUE)
def test_any_value_anywhere_in_a_recipe(place: tuple[Any, ...], value: Any) -> None:
    changed = put(TITAN8, place, value)
    if not lines(mistakes(RunConfig, changed)):
        schedule = RunConfig(**changed).schedule
        for epoch in (0, schedule.epochs - 1):
            assert math.isfinite(schedule.lr(epoch, 1, 10))
            assert schedule.phase(epoch).px > 0


@QUICK
@given(value=ANY_VALUE)
def test_any_value_as_phases_and_as_imagenet18(value: Any) -> None:
    assert lines(mistakes(Schedule, {"phases": value}))
    assert lines(mistakes(Schedule, {"imagenet18": repr(value)}))


@QUICK
@given(
    option=st.sampled_from(list(options_of(RunConfig))),
    value=st.one_of(st.text(max_size=12), NUMBERS.map(str), st.sampled_from(["nan", "inf", "-1", "0", ""])),
)
def test_any_value_of_an_option(option: str, value: Any) -> None:
    lines(mistakes(RunConfig, put(TITAN8, tuple(option.split(".")), value)))


@QUICK
@given(spans=st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), min_size=1, max_size=4))
def test_phases_with_a_gap_or_overlap_are_refused(spans: list[tuple[int, int]]) -> None:
    phases: list[dict[str, Any]] = [{"epochs": span, "px": 32, "batch_per_gpu": 2, "data": 64} for span in spans]
    phases[0]["lr"] = [{"epochs": [0, max(b for _, b in spans)], "from": 1.0, "to": 0.0}]
    tiles = all(a < b for a, b in spans) and [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert bool(lines(mistakes(Schedule, {"phases": phases}))) is not tiles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch hacked']\n", "not YAML"),
        ("run: {seed: !!python/name:os.system }\n", "not YAML"),
        ('"a\\nb": 1\n', r"a\\nb"),
        ('schedule: {phases: [{"\\n\\e[2J": 1}]}\n', r"phases\[0\]\.epochs: missing"),
        ("schedule: {phases: &loop [*loop]}\n", r"schedule\.phases"),
    ],
)
def test_hostile_yaml(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.yaml").write_text(text)
    with pytest.raises(OptionError, match=message) as refused:
        parse(RunConfig, ["--config-file", "hostile.yaml"], prog="test")
    assert all(line.isprintable() for line in lines([refused.value, *refused.value.others]))
    assert not Path("hacked").exists()
