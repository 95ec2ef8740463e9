"""This process as one of several, the others made up by torch's fake process group."""

# Without postponed annotations: DDP reads those of the hook.
import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from helpers.fake_streams import needs_torch


@contextlib.contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """A block in which this process is the first of ``ranks``."""
    needs_torch("2.15.0")  # for the fake process group
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_gradients(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """In place of the sum over processes, since the fake group's work has no result."""
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
