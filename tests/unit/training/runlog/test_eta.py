"""Time left, against numbers by hand."""

import math

import pytest

from training.config.schedule import Schedule
from training.runlog.eta import EtaEstimator, WorkModel

SCHEDULE = Schedule(
    phases=[
        {"epochs": [0, 2], "px": 10, "batch_per_gpu": 5, "data": 160, "lr": [{"epochs": [0, 3], "from": 1, "to": 0}]},
        {"epochs": [2, 3], "px": 20, "batch_per_gpu": 2, "data": "full", "val_px": 30},
    ]
)
IMAGES = {"train_160": 104, "val_160": 30, "train_full": 104, "val_full": 30}
# On 2 GPUs, epochs of 10 batches of 10 images of 100 pixels, and 30 validation images at a third: 10,000 + 1,000.
# Then 26 batches of 4 images of 400 pixels, and 30 of 900 at a third: 41,600 + 9,000.
WORK = WorkModel(schedule=SCHEDULE, images=IMAGES, gpus=2)


def test_work_of_an_epoch_by_hand() -> None:
    assert [WORK.of_epoch(epoch) for epoch in range(3)] == pytest.approx([11_000, 11_000, 50_600])
    assert [WORK.batches(epoch) for epoch in range(3)] == [10, 10, 26]


def test_time_left_by_hand() -> None:
    eta = EtaEstimator(WORK)
    eta.begin_epoch(0, 0, 0.0)
    # 5 batches are 5,000 pixels in 10 s: 500 a second. Of the epoch 6,000 are left, of the run 67,600.
    assert eta.left(0, 5, 10.0) == pytest.approx((12.0, 135.2))
    # An epoch on, with validation, the rate is that since the phase began: 16,000 in 32 s.
    eta.begin_epoch(1, 0, 22.0)
    assert eta.left(1, 5, 32.0) == pytest.approx((12.0, 113.2))
    # In the next phase, that phase's own: 16,000 pixels in 8 s.
    eta.begin_epoch(2, 0, 50.0)
    assert eta.left(2, 10, 58.0) == pytest.approx((34_600 / 2000, 34_600 / 2000))
    assert eta.left(2, 26, 70.8) == pytest.approx((4.5, 4.5))


def test_time_left_in_a_continued_run_uses_the_rate_of_this_process() -> None:
    eta = EtaEstimator(WORK)
    eta.begin_epoch(1, 4, 1000.0)
    assert all(math.isnan(seconds) for seconds in eta.left(1, 4, 1000.0))
    # 2 batches, 2,000 pixels, in 1 s; 5,000 left of the epoch, and the last epoch's 50,600.
    assert eta.left(1, 6, 1001.0) == pytest.approx((2.5, 27.8))
