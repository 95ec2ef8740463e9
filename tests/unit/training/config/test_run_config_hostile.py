"""Whatever a recipe or a command line holds gives a configuration or one line of error, and no other exception."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.recipes import RECIPES, config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training.config.phases_yaml import from_phases

from data_tools.common.options import OptionError, parse
from training.config import imagenet18
from training.config.run_config import RunConfig, as_mapping

TITAN8: dict[str, Any] = yaml.safe_load(RECIPES["titan8"].read_text())
NUMBERS = st.one_of(st.integers(-3, 600), st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 0, -1, 10**30]))
ANY_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def read(recipe: object, tmp_path: Path, *argv: str) -> RunConfig:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return parse(RunConfig, ["--config-file", str(path), *argv], prog="test")


def is_refused_in_one_line(make: Any) -> bool:
    try:
        make()
    except OptionError as error:
        assert "\n" not in str(error)
        assert str(error)
        return True
    return False


@QUICK
@given(place=st.sampled_from([p for p in places(TITAN8) if p]), value=ANY_VALUE)
def test_any_value_anywhere_in_a_recipe(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    changed = put(TITAN8, place, value)
    if not is_refused_in_one_line(lambda: read(changed, tmp_path)):
        schedule = read(changed, tmp_path).schedule
        for epoch in (0, schedule.epochs - 1):
            assert math.isfinite(schedule.lr(epoch, 1, 10))
            assert schedule.phase(epoch).px > 0


@QUICK
@given(phases=ANY_VALUE)
def test_any_value_as_phases(phases: Any) -> None:
    assert is_refused_in_one_line(lambda: from_phases(phases))


@QUICK
@given(text=st.one_of(st.text(max_size=40), ANY_VALUE.map(repr)))
def test_any_value_as_imagenet18(text: str) -> None:
    assert is_refused_in_one_line(lambda: imagenet18.parse(text))


@QUICK
@given(st.data())
def test_any_value_of_an_option(data: st.DataObject) -> None:
    options = [f"{s}.{k}" for s, section in as_mapping(config("titan8")).items() for k in section]
    key = data.draw(st.sampled_from(options))
    value = data.draw(st.one_of(st.text(max_size=12), NUMBERS.map(str), st.sampled_from(["nan", "inf", "-1", "0", ""])))
    is_refused_in_one_line(lambda: config("titan8", f"--{key}={value}"))


@QUICK
@given(spans=st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), min_size=1, max_size=4))
def test_phases_with_a_gap_or_overlap_are_refused(spans: list[tuple[int, int]]) -> None:
    phases = [{"epochs": list(span), "px": 32, "batch_per_gpu": 2, "data": 64} for span in spans]
    end = max(b for _, b in spans)
    phases[0]["lr"] = [{"epochs": [0, end], "from": 1.0, "to": 0.0}]
    tiles = all(a < b for a, b in spans) and [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert is_refused_in_one_line(lambda: from_phases(phases)) is not tiles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {momentum: 0.9, momentum: 0.8}\n", "given twice"),
        ("train: {momentun: 0.9}\n", "did you mean train.momentum"),
        ("trian: {momentum: 0.9}\n", "unknown key"),
        ("!!python/object/apply:os.system ['touch hacked']\n", "not YAML"),
        ("run: {seed: !!python/name:os.system }\n", "not YAML"),
        ("- 1\n", "not a mapping"),
        ('"a\\nb": 1\n', r"a\\nb"),
        ('schedule: {phases: [{"\\n\\e[2J": 1}]}\n', r"phases\[0\]\.\\n\\x1b"),
        ("train: 3\n", "not a mapping"),
        ("run: {dir: [}\n", "not YAML"),
        ("train: {momentum: .nan}\n", "not a finite number"),
        ("\x00", "not YAML"),
    ],
)
def test_hostile_yaml(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.yaml").write_text(text)
    with pytest.raises(OptionError, match=message) as refused:
        parse(RunConfig, ["--config-file", "hostile.yaml"], prog="test")
    assert "\n" not in str(refused.value)
    assert not Path("hacked").exists()
