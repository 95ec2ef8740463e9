"""Learning rates, phases and validation batches of a schedule, by hand."""

import pytest
from helpers.recipes import schedule

from training.config.schedule import LrRamp, Phase


def test_published_learning_rates() -> None:
    assert schedule("machines8").lr(0, 1, 157) == 1.9220382165605094
    assert schedule("titan8").lr(24, 626, 626) == 0.004375
    # By hand: 0.4375 - 0.39375 * (3 * 100 + 50) / (9 * 100)
    assert schedule("titan8").lr(16, 50, 100) == pytest.approx(0.284375, rel=1e-12)


def test_published_val_batches_and_sets() -> None:
    titan8 = schedule("titan8")
    assert [p.val_batch for p in titan8.phases] == [512, 256, 128]
    phases = [
        Phase(start=0, end=1, px=px, batch_per_gpu=bs, data="160") for px, bs in ((128, 1024), (224, 192), (288, 64))
    ]
    assert [p.val_batch for p in phases] == [1024, 256, 128]
    assert titan8.betons() == ("train_160", "val_160", "train_320", "val_320", "train_full", "val_full")
    assert [p.rectangular_val for p in titan8.phases] == [False, False, True]
    assert [p.min_scale for p in titan8.phases] == [0.08, 0.087, 0.5]


def test_ramp_reaches_its_end_exactly() -> None:
    ramp = LrRamp(start=0, end=3, lr_from=0.1, lr_to=0.3)
    assert ramp.at(2, 7, 7) == 0.3
    assert ramp.at(0, 1, 7) == pytest.approx(0.1 + 0.2 / 21)


def test_phase_of_an_epoch() -> None:
    titan8 = schedule("titan8")
    assert [titan8.phase(e).px for e in (0, 12, 13, 24, 25, 27)] == [128, 128, 224, 224, 288, 288]
    with pytest.raises(IndexError, match="epoch 28"):
        titan8.phase(28)
