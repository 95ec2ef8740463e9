"""The place in an epoch, over any stops and any change of the batch between them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config.schedule import Schedule
from training.runlog.progress import Progress

RAMP = Schedule(
    phases=[
        {"epochs": [0, 2], "px": 64, "batch_per_gpu": 1, "data": "160", "lr": [{"epochs": [0, 2], "from": 0, "to": 2}]}
    ]
)
# A run from one stop to the next: its processes, images per process and step, and steps before the stop.
PARTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(0, 20)), min_size=2, max_size=5)


def trained(images: int, parts: list[tuple[int, int, int]]) -> tuple[list[int], list[float], list[int]]:
    """Samples, rates and global batches of the second epoch, one step after another. The last part has no stop."""
    from training.loader.sample_order import epoch_order, rank_slice  # loads FFCV, which takes seconds

    progress, order = Progress(epoch=1), epoch_order(3, 1, images)
    samples: list[int] = []
    rates, batches = [], []
    for number, (ranks, batch, stop) in enumerate(parts, start=1):
        total = ranks * batch
        steps = progress.plan_epoch(images, total)
        rest = order[progress.images : progress.epoch_images]
        shares = [rank_slice(rest, batch, rank, ranks) for rank in range(ranks)]
        assert all(share.shape == (steps, batch) for share in shares)
        for step in range(steps if number == len(parts) else min(stop, steps)):
            samples += [int(sample) for share in shares for sample in share[step]]
            progress.batch, progress.images = progress.batch + 1, progress.images + total
            rates.append(RAMP.lr(1, *progress.in_batches(total)))
            batches.append(total)
    assert progress.images == len(samples)
    return samples, rates, batches


@settings(max_examples=500, deadline=None)
@given(images=st.integers(48, 400), parts=PARTS)
def test_epoch_that_is_moved_sees_each_image_at_most_once_at_the_rates_of_its_place(
    images: int, parts: list[tuple[int, int, int]]
) -> None:
    samples, rates, batches = trained(images, parts)
    assert len(set(samples)) == len(samples)
    first, last = batches[0] if batches else 0, parts[-1][0] * parts[-1][1]
    assert images - len(samples) < first + last  # less than one batch of the kind it began with, and one of the last
    end = images // first * first if first else images
    # A ramp from 1 to 2 over the epoch: no step is further from the one before than its share of the epoch's images.
    assert np.allclose(np.diff([1.0, *rates]), np.array(batches) / end, rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(images=st.integers(48, 400), batch=st.integers(1, 12), ranks=st.sampled_from([1, 2, 4]), data=st.data())
def test_epoch_that_is_stopped_or_shared_otherwise_is_the_same_to_the_bit(
    images: int, batch: int, ranks: int, data: st.DataObject
) -> None:
    whole = trained(images, [(1, 4 * batch, 0)])
    stops = data.draw(st.lists(st.integers(0, 5), max_size=4))
    samples, rates, batches = trained(images, [(ranks, 4 // ranks * batch, stop) for stop in [*stops, 0]])
    steps = images // (4 * batch)
    assert rates == whole[1] == [RAMP.lr(1, step, steps) for step in range(1, steps + 1)]
    sets = [
        {*each[at : at + 4 * batch]} for each in (samples, whole[0]) for at in range(0, steps * 4 * batch, 4 * batch)
    ]
    assert sets[:steps] == sets[steps:]
    assert batches == whole[2]


def test_complete_epoch_stays_complete_with_another_batch() -> None:
    progress = Progress()
    assert progress.plan_epoch(119, 60) == 1
    progress.images = 60  # stopped while it is validated; 59 images were left out
    assert progress.plan_epoch(119, 8) == 0
