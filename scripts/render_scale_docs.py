"""Write the tables of benchmarks/results/machines.md: estimates beside published times, cards, and a plot.

Replaces the text between the page's two marks, and the plot ``machines.svg`` beside it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import replace_between, write_atomically
from data_tools.common.imagenet import IMAGENET_IMAGES
from data_tools.common.options import Argument, Section, parse
from training.config.run_config import from_argv
from training.config.schedule import Phase, Schedule
from training.estimation.cards import CARDS
from training.estimation.run_time import Site, card_times, hours_after
from training.reporting.plotting import LIGHT, SERIES, figure, style_axes, svg_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGIN, END = "<!-- machines: made by make docs -->", "<!-- end of machines -->"
TRAIN, VAL = IMAGENET_IMAGES["train"], IMAGENET_IMAGES["val"]
MACHINES = tuple(2**power for power in range(8))
SCALED = ("machines16", 128, 38)  # the recipe of the plot, its GPUs, and its epochs to 93 %
LINES = (("v100-run", 25.0), ("v100", 25.0), ("a100", 100.0), ("h100", 25.0), ("h100", 100.0), ("h100", 400.0))
# recipe, machines of 8, card, MB/s of a disk, epochs in the published time, and that time in minutes
PUBLISHED = (
    ("titan8", 1, "titan8-run", None, 27, 60 * 2.3657),
    ("titan8", 1, "v100-run", 130.0, 27, 60 * 1.70637),
    ("machines4", 4, "v100-run", None, 29, 29 + 44 / 60),
    ("machines8", 8, "v100-run", None, 30, 19 + 4 / 60),
    ("machines16", 16, "v100-run", None, 38, 16 + 8 / 60),
    ("rn50_16", 1, "a100", None, 16, 14.9),
    ("rn50_88", 1, "a100", None, 88, 77.2),
)


def minutes(schedule: Schedule, card: str, site: Site, epochs: int) -> float:
    """Estimated minutes of the first ``epochs`` epochs."""
    return 60 * hours_after(card_times(schedule, CARDS[card], site, TRAIN, VAL), epochs)


def same_global_batch(schedule: Schedule, gpus: int, on: int) -> Schedule:
    """``schedule`` of ``gpus`` GPUs with its global batches ``on`` others. ValueError where one does not divide."""

    def phases() -> Iterator[Phase]:
        for phase in schedule.phases:
            batch, left = divmod(phase.batch_per_gpu * gpus, on)
            if left or not batch:
                raise ValueError(f"a global batch of {phase.batch_per_gpu * gpus} on {on} GPUs")
            yield Phase(**dict(phase) | {"batch_per_gpu": batch})

    return Schedule(phases=tuple(phases()), gpus=on)


def scaled(schedule: Schedule, card: str, network_gbit: float, machines: int) -> float:
    """Minutes of the plot's recipe on ``machines`` of 8 cards, with the same global batches."""
    _, gpus, epochs = SCALED
    site = Site(gpus=8 * machines, machines=machines, network_gbit=network_gbit)
    return minutes(same_global_batch(schedule, gpus, site.gpus), card, site, epochs)


def plot(curves: dict[str, list[float]], published: float) -> Figure:
    """Minutes, and the share of perfect scaling, over machines."""
    fig, (time, share) = figure(9.6, 4.2, columns=2)
    for (name, values), colour in zip(curves.items(), SERIES, strict=True):
        time.plot(MACHINES, values, color=colour, linewidth=1.8, label=name)
        kept = [100 * values[0] / (value * machines) for value, machines in zip(values, MACHINES, strict=True)]
        share.plot(MACHINES, kept, color=colour, linewidth=1.8)
    time.plot([16], [published], "o", color=LIGHT["ink"], markersize=5, label="published, 16 machines of V100")
    style_axes(time, f"simulated: minutes to epoch {SCALED[2]} of {SCALED[0]}", "machines of 8 cards")
    style_axes(share, "simulated: % of perfect scaling", "machines of 8 cards")
    time.set_yscale("log")
    share.set_ylim(0, 105)
    for axes in (time, share):
        axes.set_xscale("log", base=2)
        axes.set_xticks(MACHINES, [str(count) for count in MACHINES])
        axes.minorticks_off()
    time.set_yticks([2, 5, 10, 20, 50, 100, 200], ["2", "5", "10", "20", "50", "100", "200"])
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=LIGHT["ink"])
    return fig


def content(schedules: dict[str, Schedule]) -> Iterator[str]:
    """The text between the marks."""
    yield "| recipe | on | disk MB/s | epochs | published, min | estimated, min | |\n|---|---|---:|---:|---:|---:|---:|"
    for recipe, machines, gpu, disk, epochs, known in PUBLISHED:
        site = Site(gpus=8 * machines, machines=machines, disk_mb_s=disk)
        guess = minutes(schedules[recipe], gpu, site, epochs)
        cells = (f"`{recipe}`", f"{machines} x 8 `{gpu}`", f"{disk:g}" if disk else "", str(epochs))
        yield f"| {' | '.join(cells)} | {known:.1f} | {guess:.1f} | {100 * (guess / known - 1):+.1f} % |"
    yield "\n![Simulated minutes, and share of perfect scaling, over 1 to 128 machines of 8 cards](machines.svg)\n"
    yield "| card | images/s at 224 px, batch 256 | source |\n|---|---:|---|"
    for name, card in CARDS.items():
        rate = 1 / (card.seconds(224) + card.software.step_s / 256)
        yield f"| `{name}` | {rate:,.0f} | {card.source} |"


def mark(curves: dict[str, list[float]]) -> str:
    """Identifies the figures that the plot was made from."""
    text = repr({name: [f"{value:.4g}" for value in values] for name, values in curves.items()})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def curves_of(schedule: Schedule) -> dict[str, list[float]]:
    """Minutes over :data:`MACHINES` of each line."""
    return {
        f"{card}, {gbit:g} Gbit/s": [scaled(schedule, card, gbit, machines) for machines in MACHINES]
        for card, gbit in LINES
    }


def read(folder: Path) -> dict[str, Schedule]:
    """The schedules of the recipes that the page shows."""
    paths = {name: folder / f"{name}.yaml" for name, *_ in PUBLISHED}
    return {name: from_argv(["--config-file", str(path)]).schedule for name, path in paths.items()}


class ScaleDocsOptions(Section):
    page: Annotated[Path, Argument("PAGE.md")] = Field(description="the page to update")
    recipes: Annotated[Path, Argument("RECIPES")] = Field(description="the folder of the recipes")


@program("render_scale_docs.py")
def main(argv: Sequence[str]) -> int:
    options = parse(ScaleDocsOptions, argv, prog="scripts/render_scale_docs.py", description=__doc__ or "")
    schedules = read(options.recipes)
    curves = curves_of(schedules[SCALED[0]])
    published = next(known for recipe, *_, known in PUBLISHED if recipe == SCALED[0])
    picture = svg_file(plot(curves, published), "machines", f"simulated; figures {mark(curves)}")
    text = replace_between(options.page.read_text(encoding="utf-8"), BEGIN, END, "\n".join(content(schedules)))
    write_atomically(options.page.with_name("machines.svg"), picture.encode())
    write_atomically(options.page, text.encode())
    print(f"{options.page}: {len(PUBLISHED)} published times, {len(CARDS)} cards, a plot")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
