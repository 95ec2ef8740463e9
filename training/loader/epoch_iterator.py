"""The batches of one pass: FFCV's EpochIterator, without its thread.

FFCV's thread dies of an exception while its caller waits forever, and runs on forever if a loop is left early. Here the
native threads are what works ahead; what is left to do for a batch takes a fraction of a millisecond, and each call for
a batch does it for those that are decoded.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from ffcv.loader.epoch_iterator import EpochIterator
from numpy.typing import NDArray

from training.loader.beton_reader import LoadError, not_copied

SUBMITTED_AHEAD = 4  # batches that the native threads work at or have before them
READY_AHEAD = 2  # batches on the device or on their way to it: the one that is asked for, and the next
IN_USE = 1  # the caller's


class BatchIterator(EpochIterator):
    """The batches of a pass of `loader` in order, on the device; leaving it as a context manager ends the pass.

    images: (n, 3, height, width) uint8 in channels-last memory. labels: (n,) int64. What the pipeline raised is raised
    where its batch is asked for; LoadError where another iterator of the same loader has taken its place.
    """

    __reduce_ex__ = not_copied

    def __init__(self, loader: Any, batches: Sequence[NDArray[np.int64]], epoch: int, start: int) -> None:
        self.loader, self.batches, self._epoch, self._start = loader, batches, epoch, start
        self._submitted: deque[NDArray[np.uint8]] = deque()
        self._copied: deque[Any] = deque()
        self._begun = 0  # batches whose copies have begun
        self.closed = self._replaced = False
        # What FFCV's run_pipeline reads. The decoder's memory is not FFCV's, which would be used again while a batch is
        # in use.
        self.metadata, self.memory_context, self.storage_state = loader.reader.metadata, self, ()
        slots = SUBMITTED_AHEAD + READY_AHEAD + IN_USE
        self.memory_allocations = loader.graph.allocate_memory(loader.batch_size, slots)
        self._memory: list[NDArray[np.uint8] | None] = [None] * slots
        node = loader.graph.operation_to_node[loader.decode][0].id
        self.memory_allocations["operation"][node] = self._memory
        self.cuda_streams = [loader.copies.stream] * slots
        self._submit(0)

    def start_batch(self, number: int) -> None:
        """FFCV's memory managers fetch pages here."""
        self.loader.batch_begins(self.batches, number)

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._replaced:
            what = "another iteration of this loader has begun before this one was over"
            raise LoadError(what, where=self.loader.beton.path, remedy="use a loader for each, or one after the other")
        if self.closed:
            raise StopIteration
        decode = self.loader.decode
        decode.check_open()
        while self._submitted and len(self._copied) < READY_AHEAD and (not self._copied or decode.is_ready()):
            try:
                self._begin_copy()
            except Exception as error:  # for whoever asks for that batch
                self._submitted.clear()
                self._copied.append(decode.error or error)
        item = self._copied.popleft() if self._copied else StopIteration()
        if isinstance(item, BaseException):
            self.close()
            raise item
        number, copied = item
        batch: tuple[torch.Tensor, torch.Tensor] = self.loader.hand_over(copied, self._epoch, self._start + number)
        return batch

    def _begin_copy(self) -> None:
        """Run the pipeline for the next batch, begin to copy the result, and submit another."""
        slot = self._begun % len(self._memory)
        self._memory[slot] = self._submitted.popleft()
        batch = self.run_pipeline(self._begun, self.batches[self._begun], slot, None)
        images, labels = sorted(batch, key=torch.Tensor.dim, reverse=True)  # they are in the order of the file's fields
        self._memory[slot] = None
        self._copied.append((self._begun, self.loader.copies.start(images, labels)))
        self._begun += 1
        self._submit(self._begun + SUBMITTED_AHEAD - 1)

    def _submit(self, first: int) -> None:
        """Have the native threads begin batches from ``first`` on, as far ahead as they may."""
        for samples in self.batches[first : self._begun + SUBMITTED_AHEAD]:
            self._submitted.append(self.loader.decode.submit(samples))

    def replace(self) -> None:
        """End it for another iterator. Asked for more batches, it says so, instead of ending as if those were all."""
        self._replaced = not self.closed
        self.close()

    def close(self) -> None:
        """End the pass. Idempotent."""
        if not self.closed:
            self.closed = True
            self._copied.clear()
            self.loader.decode.cancel()

    __repr__ = object.__repr__  # that of a thread fails if it was not started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
