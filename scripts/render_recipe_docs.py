"""Write the schedules in docs/RECIPES.md: a plot for each of the YAML files.

Replaces the text between the page's two marks, and the plots in the folder ``recipes`` beside it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import replace_between, write_atomically
from data_tools.common.options import Argument, Section, parse
from training.config.run_config import from_argv
from training.config.schedule import Schedule
from training.reporting import plotting
from training.reporting.schedule_plot import plot

BEGIN, END = "<!-- recipes: made by make docs -->", "<!-- end of recipes -->"


def mark(schedule: Schedule, gpus: int) -> str:
    """Identifies the schedule that a plot was made from."""
    return hashlib.sha256(repr((schedule, gpus)).encode()).hexdigest()[:16]


def picture(name: str, schedule: Schedule, gpus: int) -> str:
    """The plot as an SVG file."""
    return plotting.svg_file(plot(schedule, gpus), name, f"schedule {mark(schedule, gpus)}")


def sections(recipes: Sequence[Path]) -> Iterator[str]:
    """The page's section on each recipe."""
    for recipe in recipes:
        yield f"### [`{recipe.stem}`](../rn50_configs/{recipe.name})\n"
        yield f"![Schedule of {recipe.stem}](recipes/{recipe.stem}.svg)\n"


class RecipeDocsOptions(Section):
    page: Annotated[Path, Argument("PAGE.md")] = Field(description="the page to update")
    recipes: Annotated[tuple[Path, ...], Argument("RECIPE.yaml")] = Field(description="the recipes that it shows")


@program("render_recipe_docs.py")
def main(argv: Sequence[str]) -> int:
    options = parse(RecipeDocsOptions, argv, prog="scripts/render_recipe_docs.py", description=__doc__ or "")
    plots = options.page.parent / "recipes"
    content = "\n".join(sections(options.recipes)).strip()
    text = replace_between(options.page.read_text(encoding="utf-8"), BEGIN, END, content)
    plots.mkdir(exist_ok=True)
    for recipe in options.recipes:
        schedule = from_argv(["--config-file", str(recipe)]).schedule
        write_atomically(plots / f"{recipe.stem}.svg", picture(recipe.stem, schedule, schedule.gpus).encode())
    write_atomically(options.page, text.encode())
    print(f"{options.page}: {len(options.recipes)} recipes, plots in {plots}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
