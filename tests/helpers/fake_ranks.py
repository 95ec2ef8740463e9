"""This process as one of several, the others made up by torch's fake process group."""

# Without postponed annotations: DDP reads those of the hook.
import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextlib.contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """A block in which this process is the first of ``ranks``."""
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
