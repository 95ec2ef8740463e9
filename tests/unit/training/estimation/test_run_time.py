"""Hours of a schedule, against published runs and numbers by hand; what bounds it, in words."""

import re
from dataclasses import replace

import pytest
from helpers import ROOT
from helpers.recipes import schedule

from scripts.render_scale_docs import PUBLISHED
from training.config.schedule import Phase, Ramp, Schedule
from training.estimation import run_time
from training.estimation.cards import CARDS, ENGINE, Card, Software
from training.estimation.run_time import Site, card_times, hours_after, phase_times

TRAIN, VAL = 1_281_167, 50_000
FREE = Software(step_s=0.0, epoch_s=0.0, phase_s=0.0, gradient_bytes=4)


# The rates of titan8-run and v100-run are read off epochs of the first two, on one machine. To the last two nothing is
# fitted; they have BlurPool, of which the estimate knows nothing.
NEAR = (0.03, 0.03, 0.10, 0.10, 0.10, 0.15, 0.15)


@pytest.mark.parametrize(("published", "near"), list(zip(PUBLISHED, NEAR, strict=True)))
def test_published_times_are_met(published: tuple[str, int, str, float | None, int, float], near: float) -> None:
    recipe, machines, card, disk_mb_s, epochs, minutes = published
    site = Site(gpus=8 * machines, machines=machines, network_gbit=25, disk_mb_s=disk_mb_s)
    times = card_times(schedule(recipe), CARDS[card], site, TRAIN, VAL)
    assert 60 * hours_after(times, epochs) == pytest.approx(minutes, rel=near)


def test_marks_of_the_published_table_are_met() -> None:
    times = card_times(schedule("titan8"), CARDS["titan8-run"], Site(gpus=8), TRAIN, VAL)
    assert hours_after(times, 13) == pytest.approx(0.5174, rel=0.03)
    assert hours_after(times, 25) == pytest.approx(1.8957, rel=0.03)


def test_crops_per_core_are_those_measured() -> None:
    text = (ROOT / "benchmarks" / "results" / "load.txt").read_text(encoding="utf-8")
    measured = re.findall(r"^\w+-(\d+), 1 core; .*\n.*\n +ours +(\d+) ", text, re.MULTILINE)
    assert {int(px): int(rate) for px, rate in measured} == run_time.CROPS_PER_CORE


def one_phase(px: int = 224, batch: int = 256, epochs: int = 2, data: str = "320") -> Schedule:
    rates = (Ramp(epochs=(0, epochs), first=1, last=1),)
    return Schedule(phases=(Phase(epochs=(0, epochs), px=px, batch_per_gpu=batch, data=data, lr=rates),))


def times_of(plan: Schedule, site: Site, software: Software = FREE, image_s: float = 0.001) -> run_time.PhaseTime:
    return phase_times(plan, lambda phase: (software.phase_s, image_s), software, site, 10_240, 0)[0]


def test_step_by_hand() -> None:
    # 256 images of 1 ms; 40 steps an epoch, 2 epochs.
    time = times_of(one_phase(), Site(gpus=1))
    assert time.seconds == pytest.approx(2 * 40 * 0.256)
    assert time.bound.startswith("the cards: 100 %")
    # Of 2 machines a ring sends every gradient once, at 0.3 of 1 Gbit/s, in 4 buckets of 25 MiB with 2 hops each.
    site = Site(gpus=2, machines=2, network_gbit=1)
    allreduce = 25_557_032 * 4 * 8 / 0.3e9 + 2 * 4 * 25e-6
    assert site.allreduce_s(25_557_032 * 4) == pytest.approx(allreduce)
    time = times_of(one_phase(), site)
    assert time.last.seconds == pytest.approx(0.256 / 3 + allreduce)
    assert time.bound == "the network: 2556 ms of the all-reduce's 2726 ms are not hidden"


def test_all_reduce_shorter_than_the_backward_pass_costs_nothing() -> None:
    fast = times_of(one_phase(), Site(gpus=2, machines=2, network_gbit=100))
    assert fast.seconds == pytest.approx(times_of(one_phase(), Site(gpus=2)).seconds)
    assert fast.last.allreduce > 0


def test_loader_bounds_by_its_cores() -> None:
    time = times_of(one_phase(), Site(gpus=1, cores_per_gpu=0.2))
    assert time.images_per_s_per_gpu == pytest.approx(2218 * 0.2)
    assert time.bound == "the loader: 577 ms a step, the cards 256 ms"
    assert times_of(one_phase(), Site(gpus=1, cores_per_gpu=1)).bound.startswith("the cards")
    # Between the measured sizes by area.
    assert Site(gpus=1, cores_per_gpu=1).crop_s(112) == pytest.approx((112 / 128) ** 2 / 6310)


def test_disk_bounds_until_the_page_cache_has_it() -> None:
    site = Site(gpus=1, disk_mb_s=20)
    time = times_of(one_phase(), site)
    size = run_time.image_bytes("320")
    assert size == pytest.approx(43_116, rel=0.01)
    assert time.epochs == pytest.approx([40 * 256 * size / 20e6, 40 * 0.256])
    assert time.bound.endswith("its first epoch by the disk")
    half = replace(site, cache_gb=10_240 * size / 2 / 1e9)
    assert times_of(one_phase(), half).epochs[1] == pytest.approx(time.epochs[0] / 2)
    assert times_of(one_phase(), replace(half, disk_mb_s=1)).bound.startswith("the disk")
    # Two machines have each read a half after one epoch, and of the second's half, half again is new.
    two = times_of(one_phase(), replace(site, gpus=2, machines=2, disk_mb_s=1, network_gbit=1000))
    assert two.epochs[1] == pytest.approx(two.epochs[0] / 2)


def test_small_batches_cost_what_small_batches_cost() -> None:
    times = [times_of(one_phase(batch=batch), Site(gpus=1), ENGINE) for batch in (4, 256)]
    assert times[0].bound == "small batches: 5 ms a step whatever its batch, 4 ms for the images"
    assert times[0].seconds - times[1].seconds == pytest.approx(2 * (2560 - 40) * ENGINE.step_s)


def test_a_phase_starts_where_images_change_only() -> None:
    phases = schedule("machines8").phases
    times = phase_times(schedule("machines8"), lambda phase: (100.0, 1e-3), FREE, Site(gpus=64), TRAIN, 0)
    began = [time.phase.start for time in times if time.epochs[0] > 99]
    assert began == [0, 14, 29]
    assert len(phases) == 5


def test_other_sizes_are_scaled_by_area() -> None:
    card = Card(image_s={128: 0.01}, source="none", software=FREE)
    assert card.seconds(256) == pytest.approx(0.04)
    times = card_times(schedule("titan8"), card, Site(gpus=8), 4096, 300)
    # One batch of 4,096 and 300 / 3 validation images an epoch, 13 epochs, 800 images a second.
    assert times[0].seconds == pytest.approx(13 * (4096 + 100) / 800)
    assert hours_after(times, 0) == 0
    assert hours_after(times, 99) == pytest.approx(sum(time.seconds for time in times) / 3600)


@pytest.mark.parametrize("card", CARDS)
def test_every_card_has_a_source_and_its_known_rate(card: str) -> None:
    assert len(CARDS[card].source) > 20
    time = times_of(one_phase(), Site(gpus=1), CARDS[card].software, CARDS[card].seconds(224))
    rate = {"v100": 833, "a100": 2078, "h200": 7099, "titan-rtx": 646, "rtx-3090": 905, "rtx-4090": 1301}
    assert time.images_per_s_per_gpu == pytest.approx(rate.get(card, time.images_per_s_per_gpu), rel=1e-6)
