"""How long a recipe will take, what bounds it, and what it will cost.

Takes the images per second of a card from a table, or measures them on this machine (``--measure``: training steps on
synthetic images, and what comes before the first, phase by phase and without the loader).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from data_tools.common.console import plural
from data_tools.common.errors import program
from data_tools.common.imagenet import IMAGENET_IMAGES
from data_tools.common.options import OptionError, nearest, parse
from training.config.run_config import RunConfig
from training.config.startup_checks import accumulation_steps
from training.estimation.cards import CARDS, ENGINE, RATED
from training.estimation.run_time import PhaseTime, Site, card_times, hours_after, phase_times

GPUS_PER_MACHINE = 8
CLASSES = 1000


class EstimateOptions(RunConfig):
    train_images: int = Field(IMAGENET_IMAGES["train"], ge=1, description="number of training images in each set")
    gpu: str | None = Field(
        None, description=f"a card in the table: {', '.join(f'`{name}`' for name in CARDS)}; by default titan8-run"
    )
    measure: bool = Field(False, description="measure training steps on this machine instead")
    gpus: int | None = Field(
        None, ge=1, le=1 << 20, description="number of cards; by default as many as the recipe is for"
    )
    machines: int | None = Field(
        None,
        ge=1,
        description="number of machines; by default the fewest with equally many cards, at most 8 each",
    )
    network_gbit: float = Field(
        25.0, ge=0.1, description="Gbit/s between machines, of which TCP is assumed to use 30 %"
    )
    cores_per_gpu: float | None = Field(
        None, ge=0.1, description="CPU cores per card that load images; by default the loader keeps up"
    )
    disk_mb_s: float | None = Field(
        None, ge=0.1, description="MB/s that the disk of each machine reads; by default the disk keeps up"
    )
    cache_gb: float | None = Field(
        None,
        ge=0,
        description="GB of memory per machine for the page cache; needs `disk_mb_s`; by default all that was read "
        "stays",
    )
    price: float | None = Field(None, ge=0, description="price per card and hour; by default no cost is shown")
    val_images: int = Field(IMAGENET_IMAGES["val"], ge=1, description="number of validation images")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.gpu is not None and self.measure:
            raise OptionError("has no effect with --measure, which times the cards of this machine", where="gpu")
        if self.card not in CARDS:
            what = f"{self.gpu!r} is not one of {', '.join(CARDS)}{nearest(self.gpu, CARDS)}"
            raise OptionError(what, where="gpu", remedy="on a machine that has the card, --measure times it")
        if self.model.arch != RATED and not self.measure:
            what = f"the rates in the table are of a {RATED}, not of a {self.model.arch}"
            raise OptionError(what, where="model.arch", remedy="--measure times it on this machine")
        if self.cache_gb is not None and self.disk_mb_s is None:
            raise OptionError("has no effect without --disk_mb_s", where="cache_gb")
        return self

    @property
    def card(self) -> str:
        return self.gpu or "titan8-run"

    @property
    def site(self) -> Site:
        """The cards and machines. OptionError if they, or the cards to emulate, cannot be divided evenly."""
        gpus = self.gpus or self.schedule.gpus
        least = -(-gpus // GPUS_PER_MACHINE)
        machines = self.machines or next(count for count in range(least, gpus + 1) if gpus % count == 0)
        if gpus % machines:
            what = f"{plural(gpus, 'GPU')} cannot be divided evenly among {plural(machines, 'machine')}"
            raise OptionError(what, where="--machines", remedy="give other --gpus or --machines")
        given = self.model_dump(include={"network_gbit", "cores_per_gpu", "disk_mb_s", "cache_gb"})
        return Site(gpus=gpus, machines=machines, accumulated=accumulation_steps(self.dist, gpus), **given)


def estimated_times(options: EstimateOptions, site: Site) -> tuple[str, list[PhaseTime]]:
    """Where the cards' rates come from, and the times of the phases."""
    schedule, train = options.schedule, options.train_images
    if not options.measure:
        card = CARDS[options.card]
        return f"{options.card}: {card.source}", card_times(schedule, card, site, train, options.val_images)
    from training.engine import synthetic_benchmark  # takes seconds to load
    from training.model import networks

    networks.check_sizes(options.model, CLASSES, schedule.phases)
    seconds = {phase: synthetic_benchmark.measure(options, phase.px, phase.batch_per_gpu) for phase in schedule.phases}
    parameters = sum(each.numel() for each in networks.without_weights(options.model, CLASSES).parameters())
    # The measured steps have their fixed cost.
    software = replace(ENGINE, step_s=0.0, parameters=parameters)
    times = phase_times(schedule, seconds.__getitem__, software, site, train, options.val_images)
    return "measured here, synthetic images on the device", times


def lines(times: list[PhaseTime], site: Site) -> Iterator[str]:
    """A line per phase, and what is not counted."""
    yield f"{'epochs':>9} {'px':>4} {'img/s/GPU':>10} {'hours':>8} {'hours so far':>13}  bound by"
    for time in times:
        so_far = hours_after(times, time.phase.end)
        rate, hours = time.images_per_s_per_gpu, time.seconds / 3600
        yield f"{time.phase.span:>9} {time.phase.px:>4} {rate:>10.0f} {hours:>8.4f} {so_far:>13.4f}  {time.bound}"
    parts = {"the loader (--cores_per_gpu)": site.cores_per_gpu, "the disk (--disk_mb_s)": site.disk_mb_s}
    if unknown := [name for name, given in parts.items() if given is None]:
        yield f"assumed to keep up: {' and '.join(unknown)}"


@program("training.estimate")
def main(argv: Sequence[str]) -> int:
    options = parse(EstimateOptions, argv, prog="training.estimate", description=__doc__ or "")
    site, epochs, price = options.site, options.schedule.epochs, options.price
    source, times = estimated_times(options, site)
    machines = f" in {plural(site.machines, 'machine')}, {site.network_gbit:g} Gbit/s" if site.machines > 1 else ""
    print(f"{plural(epochs, 'epoch')} on {plural(site.gpus, 'GPU')}{machines}; {source}")
    print("\n".join(lines(times, site)))
    hours = hours_after(times, epochs)
    cost = "" if price is None else f", {hours * site.gpus * price:,.2f} at {price:g} per GPU-hour"
    print(f"total {hours:.4f} hours, {hours * site.gpus:.2f} GPU-hours{cost}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
