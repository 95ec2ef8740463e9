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


def test_table_of_titan8_by_hand() -> None:
    lines = list(render_recipe_docs.table(schedule("titan8"), gpus=8))
    assert lines[2:] == [
        "| 1-13 | 128 | 512 | 4,096 | 160 | 0.08 | squares of 128 px from 160 | 1 → 2, 2 → 0.25 |",
        "| 14-25 | 224 | 224 | 1,792 | 320 | 0.087 | squares of 224 px from 320 "
        "| 0.4375 → 0.04375, 0.04375 → 0.004375 |",
        "| 26-28 | 288 | 128 | 1,024 | full | 0.5 | rectangles of 288 px from full | 0.0025 → 0.00025 |",
    ]


def test_learning_rates_of_a_ramp_over_two_phases() -> None:
    # rn50_16_epochs: from 1.7 after epoch 2 to 0 after epoch 16, linearly; the last phase begins at epoch 12 or later.
    epochs16 = schedule("rn50_16_epochs")
    ramp, last = epochs16.lr_ramps[-1], epochs16.phases[-1]
    at_start = ramp.first + (ramp.last - ramp.first) * (last.start - ramp.start) / (ramp.end - ramp.start)
    assert ramp.start < last.start < ramp.end
    assert list(render_recipe_docs.table(epochs16, gpus=8))[-1].endswith(f"| {at_start:.4g} → {ramp.last:.4g} |")
