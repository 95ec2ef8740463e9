"""Schedules as plots, and docs/RECIPES.md, against the recipes themselves."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import render_recipe_docs as recipe_page
from training.config.schedule import Schedule

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("rn50_configs/*.yaml"))
PAGE = ROOT / "docs/RECIPES.md"


def schedule_of(name: str) -> tuple[Schedule, int]:
    options = recipe_page.load(ROOT / f"rn50_configs/{name}.yaml").schedule
    return options.build(), options.gpus


def test_the_page_is_that_of_the_recipes() -> None:
    text = PAGE.read_text()
    assert recipe_page.renewed(text, RECIPES) == text, "make docs renews it"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_has_its_plot(recipe: Path) -> None:
    plot = ROOT / f"docs/recipes/{recipe.stem}.svg"
    assert f"(recipes/{plot.name})" in PAGE.read_text()
    root = ElementTree.fromstring(plot.read_text())
    made_from = root.findtext("{http://www.w3.org/2000/svg}desc")
    assert made_from == f"schedule {recipe_page.mark(*schedule_of(recipe.stem))}", "make docs renews it"


def test_no_plot_is_left_of_a_recipe_that_is_gone() -> None:
    assert {path.stem for path in (ROOT / "docs/recipes").iterdir()} == {recipe.stem for recipe in RECIPES}


def test_table_by_hand() -> None:
    lines = list(recipe_page.table(*schedule_of("titan8")))
    assert lines[2:] == [
        "| 0–13 | 128 | 512 | 4,096 | 160 | 0.08 | squares of 128 px from 160 | 1 → 2, 2 → 0.25 |",
        "| 13–25 | 224 | 224 | 1,792 | 320 | 0.087 | squares of 224 px from 320 "
        "| 0.4375 → 0.04375, 0.04375 → 0.004375 |",
        "| 25–28 | 288 | 128 | 1,024 | full | 0.5 | rectangles of 288 px from full | 0.0025 → 0.00025 |",
    ]


def test_a_ramp_over_several_phases_is_cut_where_they_meet() -> None:
    # rn50_16_epochs: from 1.7 after epoch 2 to 0 after epoch 16, linearly; the last phase begins at epoch 12 or later.
    schedule, gpus = schedule_of("rn50_16_epochs")
    ramp, last = schedule.ramps[-1], schedule.phases[-1]
    at_start = ramp.lr_from + (ramp.lr_to - ramp.lr_from) * (last.start - ramp.start) / (ramp.end - ramp.start)
    assert ramp.start < last.start < ramp.end
    assert list(recipe_page.table(schedule, gpus))[-1].endswith(f"| {at_start:.4g} → {ramp.lr_to:.4g} |")


def test_plot_draws_the_schedule() -> None:
    schedule, gpus = schedule_of("titan8")
    px, batch, lr = schedule.plot(gpus).axes
    assert [list(axes.patches[0].get_data().values) for axes in (px, batch)] == [[128, 224, 288], [4096, 1792, 1024]]
    assert list(px.patches[0].get_data().edges) == [0, 13, 25, 28]
    drawn = [(*line.get_xdata(), *line.get_ydata()) for line in lr.get_lines() if line.get_linestyle() == "-"]
    assert drawn[:2] == [(0, 7, 1.0, 2.0), (7, 13, 2.0, 0.25)]
    assert drawn[-1] == (25, 28, 0.0025, 0.00025)
    assert [axes.get_title(loc="left") for axes in (px, batch, lr)] == [
        "px",
        "global batch, on 8 GPUs",
        "learning rate",
    ]


def test_command_renews_page_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "RECIPES.md"
    page.write_text(f"before\n{recipe_page.BEGIN}\nold\n{recipe_page.END}\nafter\n")
    recipes = [str(path) for path in RECIPES[:2]]
    assert recipe_page.main([str(page), *recipes]) == 0
    text = page.read_text()
    assert re.fullmatch(r"before\n<!--.*-->\n\n### .*<!--.*-->\nafter\n", text, re.DOTALL)
    assert "old" not in text
    first = {path.name: path.read_bytes() for path in (tmp_path / "recipes").iterdir()}
    assert set(first) == {f"{path.stem}.svg" for path in RECIPES[:2]}
    assert recipe_page.main([str(page), *recipes]) == 0
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in (tmp_path / "recipes").iterdir()} == first


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    assert recipe_page.main([str(page), str(RECIPES[0])]) == 2
    assert "lacks its marks" in capsys.readouterr().err
    page.write_text(f"{recipe_page.BEGIN}{recipe_page.END}")
    assert recipe_page.main([str(page), "none.yaml"]) == 2
    assert "none.yaml" in capsys.readouterr().err
