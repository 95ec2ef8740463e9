"""The recipes as docs/RECIPES.md shows them: a table of phases and a plot each, made from the YAML files.

    python scripts/render_recipe_docs.py docs/RECIPES.md rn50_configs/*.yaml

Renews what stands between the page's two marks, and the plots in the folder ``recipes`` beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.common.files import write_atomically
from data_tools.common.options import OptionError, parse
from training.config.run_config import RunConfig
from training.config.schedule import Phase, Schedule
from training.reporting.plotting import svg
from training.reporting.schedule_plot import plot

BEGIN, END = "<!-- recipes: made by make docs -->", "<!-- end of recipes -->"


def load(recipe: Path) -> RunConfig:
    """A recipe with nothing changed. OptionError for a mistake in it."""
    return parse(RunConfig, ["--config-file", str(recipe)], prog="scripts/render_recipe_docs.py")


def mark(schedule: Schedule, gpus: int) -> str:
    """What the plot of a schedule says it was made from."""
    return hashlib.sha256(repr((schedule, gpus)).encode()).hexdigest()[:16]


def picture(name: str, schedule: Schedule, gpus: int) -> str:
    """The plot as an SVG file on white ground, to be read on pages of any colour."""
    element = svg(plot(schedule, gpus), name)
    start = element.index(">") + 1
    about = f"<title>{name}</title><desc>schedule {mark(schedule, gpus)}</desc>"
    return f'{element[:start]}{about}<rect width="100%" height="100%" fill="#ffffff"/>{element[start:]}\n'


def sections(recipes: Sequence[Path]) -> Iterator[str]:
    """The page's part about each recipe."""
    for recipe in recipes:
        config = load(recipe)
        schedule, gpus = config.schedule.build(), config.schedule.gpus
        yield f"### [`{recipe.stem}`](../rn50_configs/{recipe.name})\n"
        yield f"{schedule.epochs} epochs on {gpus} GPU{'s' if gpus > 1 else ''}, {config.model.arch}.\n"
        yield f"![{recipe.stem}: px, global batch and learning rate over the epochs](recipes/{recipe.stem}.svg)\n"
        yield "\n".join(table(schedule, gpus)) + "\n"


def table(schedule: Schedule, gpus: int) -> Iterator[str]:
    """The phases, a line each."""
    yield "| epochs | px | batch a GPU | global batch | set | least crop | validation | learning rate |"
    yield "|---|---:|---:|---:|---|---:|---|---|"
    for phase in schedule.phases:
        kind = "rectangles" if phase.rectangular else "squares"
        yield (
            f"| {phase.start}–{phase.end} | {phase.px} | {phase.batch_per_gpu} | {phase.batch_per_gpu * gpus:,} "
            f"| {phase.data} | {phase.min_scale:g} | {kind} of {phase.val_px} px from {phase.val_data} "
            f"| {rates(schedule, phase)} |"
        )


def rates(schedule: Schedule, phase: Phase) -> str:
    """The learning rates within a phase, from change to change."""
    parts = []
    for ramp in schedule.ramps:
        start, end = max(ramp.start, phase.start), min(ramp.end, phase.end)
        if start < end:
            # Before the first batch of an epoch, as it were; the last batch before `end` has the other value itself.
            low, high = ramp.at(start, 0, 1), ramp.at(end - 1, 1, 1)
            parts.append(f"{low:.4g}" if low == high else f"{low:.4g} → {high:.4g}")
    return ", ".join(dict.fromkeys(parts))


def renewed(text: str, recipes: Sequence[Path]) -> str:
    """The page ``text`` with the part between its marks made anew. OptionError where it has none."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OptionError(f"the page lacks its marks, {BEGIN} and {END}")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n" + "\n".join(sections(recipes)) + f"\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/render_recipe_docs.py", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("page", type=Path, metavar="PAGE.md")
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE.yaml")
    given = parser.parse_args(argv)
    plots = given.page.parent / "recipes"
    try:
        text = renewed(given.page.read_text(encoding="utf-8"), given.recipes)
        plots.mkdir(exist_ok=True)
        for recipe in given.recipes:
            options = load(recipe).schedule
            write_atomically(plots / f"{recipe.stem}.svg", picture(recipe.stem, options.build(), options.gpus).encode())
        write_atomically(given.page, text.encode())
    except (OptionError, OSError) as error:
        print(f"render_recipe_docs.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{given.page}: {len(given.recipes)} recipes, plots in {plots}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
