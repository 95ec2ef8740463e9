"""docs/RECIPES.md is up to date with the recipes."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.recipes import RECIPES, config, schedule

from scripts import render_recipe_docs

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/RECIPES.md"


def test_page_is_up_to_date() -> None:
    sections = render_recipe_docs.sections(list(RECIPES.values()))
    assert "\n".join(sections).strip() in PAGE.read_text(), "make docs renews it"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_an_up_to_date_plot(recipe: str) -> None:
    plot = ROOT / f"docs/recipes/{recipe}.svg"
    assert f"(recipes/{plot.name})" in PAGE.read_text()
    made_from = ElementTree.fromstring(plot.read_text()).findtext("{http://www.w3.org/2000/svg}desc")
    # Each colour is a variable, with a value for readers who prefer dark pages.
    light, dark = plot.read_text().split("prefers-color-scheme: dark")
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", dark))
    assert {"paper", "ink", "grid", "series-0"} <= used
    assert all(f"--{name}: #" in light and f"--{name}: #" in dark for name in used)
    assert not re.findall(r"#[0-9a-f]{6}\b", dark.partition("</style>")[2])
    mark = render_recipe_docs.mark(schedule(recipe), config(recipe).schedule.gpus)
    assert made_from == f"schedule {mark}", "make docs renews it"


def test_every_plot_has_a_recipe() -> None:
    assert {path.stem for path in (ROOT / "docs/recipes").iterdir()} == set(RECIPES)
