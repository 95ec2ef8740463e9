"""Which sample when: pure functions of (seed, epoch, number of samples), the same on every machine.

Hashes of the sample's number take the place of a random generator's state, so nothing depends on the number of
processes, on the batch or on where a run was continued.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _key(*numbers: int) -> np.uint64:
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = _mixed(key ^ np.uint64((number + GOLDEN) & MASK))
    return np.uint64(key[0])


def _hashes(count: int, *numbers: int) -> NDArray[np.uint64]:
    """One 64-bit hash for each of 0 .. count - 1, of it and of `numbers`."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return _mixed(_key(*numbers) + steps)


def epoch_order(seed: int, epoch: int, images: int) -> Indices:
    """A permutation of 0 .. images - 1: the samples sorted by their hashes.

    numpy's own permutation may change with its version; a sort by key may not.
    """
    return np.argsort(_hashes(images, seed, epoch), kind="stable").astype(np.int64)


def page_order(seed: int, epoch: int, pages: NDArray[np.uint64], window: int) -> Indices:
    """A shuffled order that stays near: `window` pages at a time, drawn at random, their samples mixed.

    `pages` gives the page of each sample. For a beton larger than memory: each page is read once an epoch, and
    `window` of them have to stay in the page cache. It is global like `epoch_order`, so it is dealt to processes
    in the same way.
    """
    _, number = np.unique(pages, return_inverse=True)
    place = np.empty(int(number.max()) + 1, np.int64)
    place[epoch_order(seed, ~epoch, len(place))] = np.arange(len(place))  # another stream than the samples'
    return np.lexsort((_hashes(len(pages), seed, epoch), place[number] // window)).astype(np.int64)


def rank_slice(order: Indices, batch: int, rank: int, ranks: int) -> Indices:
    """(batches, batch): of each full global batch of batch * ranks samples every ranks-th one, from rank on."""
    whole = len(order) // (batch * ranks)
    dealt = order[: whole * batch * ranks].reshape(whole, batch, ranks)
    return np.ascontiguousarray(dealt[:, :, rank])


def batch_key(seed: int, epoch: int, batch: int) -> int:
    """A number of this global batch alone, the same on every run of the same seed."""
    return (seed * 100_003 + epoch) * 1_000_003 + batch
