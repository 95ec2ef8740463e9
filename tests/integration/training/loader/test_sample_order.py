"""Sample orders: permutations, uniform, the same forever; and what each rank gets of them."""

import numpy as np
import pytest

from training.loader import sample_order


def test_epoch_order_is_a_permutation_that_never_changes() -> None:
    # Another order would break every checkpoint saved within an epoch.
    assert sample_order.epoch_order(0, 0, 10).tolist() == [2, 0, 7, 5, 4, 6, 1, 3, 8, 9]
    assert sorted(sample_order.epoch_order(5, 7, 1000)) == list(range(1000))
    assert sample_order.epoch_order(5, 7, 0).size == 0


def test_every_seed_and_epoch_gives_another_order() -> None:
    orders = [tuple(sample_order.epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == len(orders)


def test_all_permutations_are_equally_likely() -> None:
    counts = np.zeros(24)
    for epoch in range(6000):
        permutation = sample_order.epoch_order(1, epoch, 4)
        counts[lehmer_code(permutation)] += 1
    chi_square = ((counts - 250) ** 2 / 250).sum()
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def lehmer_code(permutation: np.ndarray) -> int:
    """Lehmer code: 0 .. n! - 1."""
    number = 0
    for i, value in enumerate(permutation):
        number = number * (len(permutation) - i) + int((permutation[i + 1 :] < value).sum())
    return number


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_divide_each_global_batch(ranks: int) -> None:
    samples = sample_order.epoch_order(0, 1, 1000)
    shares = [sample_order.rank_slice(samples, 48 // ranks, rank, ranks) for rank in range(ranks)]
    assert all(each.shape == (1000 // 48, 48 // ranks) for each in shares)
    together = np.stack(shares, axis=2).reshape(1000 // 48, 48)
    np.testing.assert_array_equal(together, samples[:960].reshape(20, 48))


def test_page_order_reads_each_page_in_one_window() -> None:
    pages = np.repeat(np.arange(20, dtype=np.uint64), 30) + np.uint64(3)
    samples = sample_order.page_order(2, 0, pages, window=4)
    assert sorted(samples) == list(range(600))
    windows = pages[samples].reshape(5, 120)
    assert all(len(set(window)) == 4 for window in windows)
    assert len({page for window in windows for page in set(window)}) == 20
    assert len(set(windows[0][:30])) == 4  # mixed within the window
    assert not np.array_equal(samples, sample_order.page_order(2, 1, pages, window=4))
