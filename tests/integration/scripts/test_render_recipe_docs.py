"""The command that renews docs/RECIPES.md and its plots."""

import re
from pathlib import Path

import pytest
from helpers.recipes import RECIPES

from scripts.render_recipe_docs import BEGIN, END, main


def test_command_renews_page_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "RECIPES.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    recipes = [str(path) for path in list(RECIPES.values())[:2]]
    assert main([str(page), *recipes]) == 0
    text = page.read_text()
    assert re.fullmatch(r"before\n<!--.*-->\n\n### .*<!--.*-->\nafter\n", text, re.DOTALL)
    assert "old" not in text
    first = {path.name: path.read_bytes() for path in (tmp_path / "recipes").iterdir()}
    assert set(first) == {f"{path.stem}.svg" for path in list(RECIPES.values())[:2]}
    assert main([str(page), *recipes]) == 0
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in (tmp_path / "recipes").iterdir()} == first
