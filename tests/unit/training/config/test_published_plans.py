"""Every batch of the recipes that are taken from elsewhere, against what was published of them."""

import math

import numpy as np
import pytest
from helpers.recipes import config, schedule

from training.config.schedule import Schedule
from training.plan import PlannedBatch, planned_batches

IMAGES = 1_281_167


def batches(name: str) -> list[PlannedBatch]:
    """All batches of a recipe on ImageNet."""
    recipe = schedule(name)
    return list(planned_batches(recipe, {phase.data: IMAGES for phase in recipe.phases}, config(name).schedule.gpus))


def sizes(recipe: Schedule) -> list[int]:
    return [recipe.phase(epoch).px for epoch in range(recipe.epochs)]


def test_aiacc8_is_the_dawnbench_entry() -> None:
    assert sizes(schedule("aiacc8")) == [96] * 12 + [128] * 6 + [224] * 2 + [288]
    rows = batches("aiacc8")
    # 2,048 images a batch for 20 epochs, 1,024 for the last: 625 and 1,251 batches an epoch.
    assert [(row.epoch, row.batch, row.batches) for row in rows] == [
        (epoch, batch, count)
        for epoch, count in enumerate([625] * 20 + [1251], start=1)
        for batch in range(1, count + 1)
    ]
    position = [row.epoch - 1 + row.batch / row.batches for row in rows]
    assert [row.lr for row in rows] == pytest.approx(np.interp(position, [0, 5, 21], [1e-4, 1.2, 1e-4]), rel=1e-9)
    assert [row.momentum for row in rows] == pytest.approx(np.interp(position, [0, 5, 21], [0.96, 0.9, 0.96]))
    last = schedule("aiacc8").phases[-1]
    assert (last.rectangular_val, last.min_scale) == (True, 0.5)
    train = config("aiacc8").train
    assert (train.nesterov, train.weight_decay, train.momentum) == (True, 1e-4, 0.9)


def test_mosaic_mild_has_composers_sizes_and_rates() -> None:
    """Composer's formulas, for a run of int(0.32 · 90) epochs; there, batches count from 0."""
    recipe, epochs, steps = schedule("mosaic_mild"), int(0.32 * 90), IMAGES // 2048
    # ProgressiveResizing(initial_scale=0.5, delay_fraction=0.4, finetune_fraction=0.2, size_increment=4) of 176 px
    grown = [min(max((epoch / epochs - 0.4) / (1 - 0.2 - 0.4), 0), 1) for epoch in range(epochs)]
    assert sizes(recipe) == [round(176 * (0.5 + 0.5 * share) / 4) * 4 for share in grown]
    # CosineAnnealingWithWarmupScheduler(t_warmup="8ep", alpha_f=0.0)
    expected = []
    for done in range(1, epochs * steps + 1):
        share = (done - 8 * steps) / ((epochs - 8) * steps)
        expected.append(2.048 * (done / (8 * steps) if share < 0 else (1 + math.cos(math.pi * share)) / 2))
    assert [row.lr for row in batches("mosaic_mild")] == pytest.approx(expected, abs=1e-12)
    assert {(phase.val_px, phase.val_shorter_px) for phase in recipe.phases} == {(224, 232)}
    train = config("mosaic_mild").train
    assert (train.loss, train.label_smoothing, train.momentum, train.weight_decay) == ("bce", 0.08, 0.875, 5e-4)
    assert (train.ema_every, train.ema) == (20, pytest.approx(math.exp(-math.log(2) * 20 / 100)))


@pytest.mark.parametrize(
    ("name", "epochs", "ramp"),
    [
        ("rn50_16", 16, (11, 13)),
        ("rn50_24", 24, (17, 20)),
        ("rn50_32", 32, (23, 27)),
        ("rn50_40", 40, (29, 34)),
        ("rn50_56", 56, (41, 48)),
        ("rn50_88", 88, (65, 76)),
    ],
)
def test_ffcv_recipes_have_ffcvs_sizes_and_rates(name: str, epochs: int, ramp: tuple[int, int]) -> None:
    """ffcv-imagenet's formulas; there, batches count from 0, and the first rate is 0.0001 of the peak of 1.7."""
    expected = np.round(np.interp(np.arange(epochs), ramp, [160, 192]) / 32) * 32
    assert sizes(schedule(name)) == expected.tolist()
    rows = batches(name)
    assert len(rows) == epochs * (IMAGES // 4096)
    position = [row.epoch - 1 + row.batch / row.batches for row in rows]
    rates = np.interp(position, [0, 2, epochs], [1.7e-4, 1.7, 0])
    assert [row.lr for row in rows] == pytest.approx(rates, rel=1e-9, abs=1e-12)
    assert {phase.val_px for phase in schedule(name).phases} == {256}


@pytest.mark.parametrize(
    ("name", "epochs", "work"), [("titan8", 27, 0.98), ("aiacc8", 21, 0.39), ("mosaic_mild", 27, 0.42)]
)
def test_work_to_the_published_accuracy(name: str, epochs: int, work: float) -> None:
    """In millions of epochs times px²."""
    assert round(sum(px**2 for px in sizes(schedule(name))[:epochs]) / 1e6, 2) == work
