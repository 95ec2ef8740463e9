"""Write the recipes in docs/RECIPES.md: a table of phases and a plot for each, from the YAML files.

Replaces the text between the page's two marks, and the plots in the folder ``recipes`` beside it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.errors import program
from data_tools.common.files import replace_between, write_atomically
from data_tools.common.options import REQUIRED, check, option, parse
from training.config.run_config import RunConfig
from training.config.schedule import LrRamp, MomentumRamp, Phase, Schedule
from training.reporting.plotting import svg
from training.reporting.schedule_plot import plot

BEGIN, END = "<!-- recipes: made by make docs -->", "<!-- end of recipes -->"


def load(recipe: Path) -> RunConfig:
    """The configuration of a recipe. OptionError for a mistake in it."""
    return parse(RunConfig, ["--config-file", str(recipe)], prog="scripts/render_recipe_docs.py")


def mark(schedule: Schedule, gpus: int) -> str:
    """Identifies the schedule that a plot was made from."""
    return hashlib.sha256(repr((schedule, gpus)).encode()).hexdigest()[:16]


def picture(name: str, schedule: Schedule, gpus: int) -> str:
    """The plot as an SVG file on white, readable on pages of any colour."""
    element = svg(plot(schedule, gpus), name)
    start = element.index(">") + 1
    about = f"<title>{name}</title><desc>schedule {mark(schedule, gpus)}</desc>"
    return f'{element[:start]}{about}<rect width="100%" height="100%" fill="#ffffff"/>{element[start:]}\n'


def sections(recipes: Sequence[Path]) -> Iterator[str]:
    """The page's section on each recipe."""
    for recipe in recipes:
        config = load(recipe)
        schedule, gpus = config.schedule.parsed, config.schedule.gpus
        yield f"### [`{recipe.stem}`](../rn50_configs/{recipe.name})\n"
        yield f"{schedule.epochs} epochs on {gpus} GPU{'s' if gpus > 1 else ''}, {config.model.arch}.\n"
        shown = (
            "px, global batch, learning rate and momentum" if ramped(schedule) else "px, global batch and learning rate"
        )
        yield f"![{recipe.stem}: {shown} over the epochs](recipes/{recipe.stem}.svg)\n"
        yield "\n".join(table(schedule, gpus)) + "\n"


def ramped(schedule: Schedule) -> bool:
    return bool(schedule.momentum_ramps)


def table(schedule: Schedule, gpus: int) -> Iterator[str]:
    """The phases, a line each."""
    momentum = ramped(schedule)
    heading = "| epochs | px | batch a GPU | global batch | set | least crop | validation | learning rate |"
    yield heading + (" momentum |" if momentum else "")
    yield "|---|---:|---:|---:|---|---:|---|---|" + ("---|" if momentum else "")
    for phase in schedule.phases:
        kind = "rectangles" if phase.rectangular_val else "squares"
        resized = f" (resized to {phase.val_resize})" if phase.val_resize else ""
        line = (
            f"| {phase.start}–{phase.end} | {phase.px} | {phase.batch_per_gpu} | {phase.batch_per_gpu * gpus:,} "
            f"| {phase.data} | {phase.min_scale:g} | {kind} of {phase.val_px} px{resized} from {phase.val_data} "
            f"| {values(schedule.ramps, phase)} |"
        )
        yield line + (f" {values(schedule.momentum_ramps, phase)} |" if momentum else "")


def values(ramps: Sequence[LrRamp] | Sequence[MomentumRamp], phase: Phase) -> str:
    """Learning rates or momenta within a phase, from change to change."""
    parts = []
    for ramp in ramps:
        start, end = max(ramp.start, phase.start), min(ramp.end, phase.end)
        if start < end:
            # Batch 0 is just before the first batch of an epoch; the last batch before `end` has the end value.
            low, high = ramp.at(start, 0, 1), ramp.at(end - 1, 1, 1)
            shape = "" if ramp.shape == "linear" else f" ({ramp.shape})"
            parts.append(f"{low:.4g}" if low == high else f"{low:.4g} → {high:.4g}{shape}")
    return ", ".join(dict.fromkeys(parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDocsOptions:
    """One page."""

    page: Path = option(REQUIRED, "the page to renew", argument="PAGE.md")
    recipes: tuple[Path, ...] = option(REQUIRED, "the recipes that it shows", argument="RECIPE.yaml")

    def __post_init__(self) -> None:
        check(self)


@program("render_recipe_docs.py")
def main(argv: Sequence[str]) -> int:
    options = parse(RecipeDocsOptions, argv, prog="scripts/render_recipe_docs.py", description=__doc__ or "")
    plots = options.page.parent / "recipes"
    content = "\n".join(sections(options.recipes)).strip()
    text = replace_between(options.page.read_text(encoding="utf-8"), BEGIN, END, content)
    plots.mkdir(exist_ok=True)
    for recipe in options.recipes:
        schedule = load(recipe).schedule
        write_atomically(plots / f"{recipe.stem}.svg", picture(recipe.stem, schedule.parsed, schedule.gpus).encode())
    write_atomically(options.page, text.encode())
    print(f"{options.page}: {len(options.recipes)} recipes, plots in {plots}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
