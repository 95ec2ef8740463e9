"""How long a recipe will take, and what it will cost.

Takes the images per second of a card from a table, or measures them on this machine (``--measure``: training steps on
synthetic images, phase by phase, without the loader).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data_tools.common.errors import program
from data_tools.common.imagenet import IMAGENET_IMAGES
from data_tools.common.options import OptionError, check, nearest, option, parse
from data_tools.common.text import plural
from training.config.run_config import RunConfig
from training.config.schedule import Phase, Schedule, batches_per_epoch
from training.runlog.eta import VAL_COST


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Published ResNet-50 training rates of a card, images a second, by px; other sizes are scaled by area.

    ``whole_epochs``: the rates include validation; ``phase_start_s``: extra seconds of a phase's first epoch.
    """

    rates: Mapping[int, float]
    source: str
    whole_epochs: bool = False
    phase_start_s: float = 0.0

    def rate(self, px: int) -> float:
        nearest = min(self.rates, key=lambda known: abs(known - px))
        return self.rates[nearest] * (nearest / px) ** 2


CARDS = {
    "titan8-run": Card(
        rates={128: 1152, 224: 391, 288: 202},
        source="the published titan8 run, whole epochs (Lambda, January 2019)",
        whole_epochs=True,
        phase_start_s=68,
    ),
    "titan-rtx": Card(rates={224: 646}, source="Lambda's benchmark, AMP, synthetic images"),
    "a100": Card(rates={224: 2470}, source="NVIDIA's examples, AMP, synthetic images"),
    "h100": Card(rates={224: 2791}, source="Lambda's benchmark, AMP, synthetic images"),
    "h200": Card(rates={224: 3079}, source="NVIDIA's examples, AMP, synthetic images"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTime:
    phase: Phase
    images_per_s_per_gpu: float
    seconds: float


def phase_times(
    schedule: Schedule, rate: Callable[[Phase], float], gpus: int, train: int, val: int, start_s: float
) -> list[PhaseTime]:
    """Seconds of each phase on ``gpus`` cards of ``rate(phase)`` training images a second each. ValueError for no card
    or a negative count."""
    if gpus < 1 or train < 1 or val < 0:
        raise ValueError(f"no estimate for {train} training and {val} validation images on {gpus} cards")
    times = []
    for phase in schedule.phases:
        batches = batches_per_epoch(train, phase.batch_per_gpu, gpus)
        trained = batches * phase.batch_per_gpu * gpus
        validated = val * VAL_COST * (phase.val_px / phase.px) ** 2
        per_s = rate(phase)
        seconds = (phase.end - phase.start) * (trained + validated) / (per_s * gpus) + start_s
        times.append(PhaseTime(phase=phase, images_per_s_per_gpu=per_s, seconds=seconds))
    return times


def hours_after(times: list[PhaseTime], epochs: int) -> float:
    """Hours until ``epochs`` epochs are complete."""
    seconds = 0.0
    for time in times:
        span = time.phase.end - time.phase.start
        seconds += time.seconds * min(max(epochs - time.phase.start, 0), span) / span
    return seconds / 3600


def card_times(schedule: Schedule, card: Card, gpus: int, train: int, val: int) -> list[PhaseTime]:
    """Times on a tabulated card."""
    counted = 0 if card.whole_epochs else val
    return phase_times(schedule, lambda phase: card.rate(phase.px), gpus, train, counted, card.phase_start_s)


def measured_rate(config: RunConfig, phase: Phase, steps: int = 20) -> float:
    """Training images a second on this machine at ``phase``'s size and batch, with images already on the device."""
    from training.engine import synthetic_benchmark

    return synthetic_benchmark.measure(config, phase.px, phase.batch_per_gpu, steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateOptions(RunConfig):
    """One estimate; the recipe's options can be changed, too."""

    gpu: str = option("titan8-run", f"a card in the table: {', '.join(f'`{name}`' for name in CARDS)}")
    measure: bool = option(False, "measure training steps on this machine instead")
    gpus: int | None = option(None, "number of cards", low=1, none="as many as the recipe is for")
    price: float | None = option(None, "price per card and hour", low=0, none="show no cost")
    val_images: int = option(IMAGENET_IMAGES["val"], "number of validation images", low=1)

    def __post_init__(self) -> None:
        check(self)
        if self.gpu not in CARDS:
            raise OptionError(f"{self.gpu!r} is not one of {', '.join(CARDS)}{nearest(self.gpu, CARDS)}", where="--gpu")


@program("training.estimate")
def main(argv: Sequence[str]) -> int:
    options = parse(EstimateOptions, argv, prog="training.estimate", description=__doc__ or "")
    schedule, gpus = options.schedule.parsed, options.gpus or options.schedule.gpus
    train_images = options.data.train_images or IMAGENET_IMAGES["train"]
    if options.measure:
        source = "measured here, synthetic images on the device"
        rates = {phase: measured_rate(options, phase) for phase in schedule.phases}
        times = phase_times(schedule, rates.__getitem__, gpus, train_images, options.val_images, 0.0)
    else:
        card = CARDS[options.gpu]
        source = f"{options.gpu}: {card.source}"
        times = card_times(schedule, card, gpus, train_images, options.val_images)
    print(f"{plural(schedule.epochs, 'epoch')} on {plural(gpus, 'GPU')}; {source}")
    print(f"{'epochs':>9} {'px':>4} {'img/s/GPU':>10} {'hours':>8} {'hours so far':>13}")
    for time in times:
        span, so_far = f"{time.phase.start + 1}-{time.phase.end}", hours_after(times, time.phase.end)
        rate, hours = time.images_per_s_per_gpu, time.seconds / 3600
        print(f"{span:>9} {time.phase.px:>4} {rate:>10.0f} {hours:>8.4f} {so_far:>13.4f}")
    total = hours_after(times, schedule.epochs)
    cost = (
        f", {total * gpus * options.price:,.2f} at {options.price:g} per GPU-hour" if options.price is not None else ""
    )
    print(f"in all {total:.4f} hours, {total * gpus:.2f} GPU-hours{cost}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
