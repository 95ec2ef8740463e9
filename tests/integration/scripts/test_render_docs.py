"""The commands of `make docs` renew what stands between the marks of a page, and the plots beside it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT
from helpers.recipes import RECIPES

from scripts import render_recipe_docs, render_scale_docs

SOME = [str(path) for path in list(RECIPES.values())[:2]]


@pytest.mark.parametrize(
    ("program", "arguments", "plots"),
    [
        (render_recipe_docs, SOME, [f"docs/recipes/{Path(path).stem}.svg" for path in SOME]),
        (render_scale_docs, [str(ROOT / "rn50_configs")], ["benchmarks/results/machines.svg"]),
    ],
)
def test_command_renews_page_and_plots(
    program: ModuleType, arguments: list[str], plots: list[str], tmp_path: Path
) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text(f"before\n{program.BEGIN}\nold\n{program.END}\nafter\n")
    made = []
    for _ in range(2):
        assert program.main([str(page), *arguments]) == 0
        made.append((page.read_text(), {path.name: path.read_bytes() for path in tmp_path.rglob("*.svg")}))
    assert made[0] == made[1]
    text, svgs = made[0]
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n") and "old" not in text
    assert svgs == {Path(plot).name: (ROOT / plot).read_bytes() for plot in plots}
