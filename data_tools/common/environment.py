"""What libraries read from the environment when they are loaded, so that it must be set before."""

from __future__ import annotations

from collections.abc import MutableMapping

# How long OpenMP's threads spin while they wait for each other; each of these is a choice that the user has made.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Make OpenMP's waiting threads, torch's and numba's, sleep instead of spinning, unless ``environment`` says how.

    Where other work shares the cores, a thread that spins takes them from the one that it waits for
    (docs/PERFORMANCE.md has figures). Processes that are started inherit it.
    """
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"
