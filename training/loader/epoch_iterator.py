"""The batches of one pass: FFCV's EpochIterator, which here hands errors to its caller and ends when it is left.

FFCV's own thread dies of an exception while its caller waits forever, and runs on forever if a loop is left early.
"""

from __future__ import annotations

import os
import queue
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from ffcv.loader.epoch_iterator import EpochIterator
from numpy.typing import NDArray

from training.loader.beton_reader import LoadError

Batch = tuple[torch.Tensor, torch.Tensor]
SUBMITTED_AHEAD = 3  # batches that the native threads work at or have before them
READY_AHEAD = 2  # batches that wait for the caller, on the device or on their way to it
IN_USE = 2  # the caller's, and the one that is handed over
CHECK_SECONDS = 0.1


class BatchProducer(EpochIterator):
    """The thread that runs the pipelines of a BetonLoader. It does not know its BatchIterator, which ends it."""

    def __init__(self, loader: Any, batches: Sequence[NDArray[np.int64]]) -> None:
        Thread.__init__(self, daemon=True, name="batches")
        self.loader, self.metadata = loader, loader.reader.metadata
        self.batches = batches
        self.closed = False
        self.process = os.getpid()
        self.output_queue: Queue[Any] = Queue(READY_AHEAD)
        self.terminate_event = Event()
        self.memory_context = self
        self.storage_state = ()
        slots = SUBMITTED_AHEAD + READY_AHEAD + IN_USE
        self.memory_allocations = loader.graph.allocate_memory(loader.batch_size, slots)
        # Not FFCV's memory, which would be used again while a batch is in use.
        self.decoder_memory: list[NDArray[np.uint8] | None] = [None] * slots
        node = loader.graph.operation_to_node[loader.decode][0].id
        self.memory_allocations["operation"][node] = self.decoder_memory
        self.cuda_streams = [loader.copies.stream] * slots
        self.start()

    def start_batch(self, number: int) -> None:
        """FFCV's memory managers fetch pages here."""
        self.loader.batch_begins(self.batches, number)

    def run(self) -> None:
        """Every batch into the queue; at last None, or what was raised."""
        decode, batches, slots = self.loader.decode, self.batches, len(self.cuda_streams)
        last: Any = None
        try:
            submitted = deque(decode.submit(samples) for samples in batches[:SUBMITTED_AHEAD])
            for number, samples in enumerate(batches):
                self.decoder_memory[number % slots] = submitted.popleft()
                images, labels = self.run_pipeline(number, samples, number % slots, None)
                self.decoder_memory[number % slots] = None
                if number + SUBMITTED_AHEAD < len(batches):
                    submitted.append(decode.submit(batches[number + SUBMITTED_AHEAD]))
                if not self._put(self.loader.copies.start(images, labels)):
                    return
                del images, labels
        except Exception as error:
            last = decode.error or error
        finally:
            decode.cancel()
        self._put(last)

    def _put(self, item: Any) -> bool:
        """Whether the item was put, before an end was asked for."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=CHECK_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def close(self) -> None:
        """End the thread, and wait for it. Idempotent. A process that was forked has no such thread."""
        if os.getpid() != self.process:
            return
        self.terminate_event.set()
        if self.is_alive():
            self.join()
        while not self.output_queue.empty():
            self.output_queue.get_nowait()

    def __del__(self) -> None:
        """FFCV's would leave a memory context that is not there."""


class BatchIterator(Iterator[Batch]):
    """The batches of a pass of `loader` in order, on the device; a context manager that ends the thread.

    images: (n, 3, height, width) uint8 in channels-last memory. labels: (n,) int64. What the pipeline raised is raised
    where its batch is asked for; LoadError where another iterator of the same loader has taken its place.
    """

    def __init__(self, loader: Any, batches: Sequence[NDArray[np.int64]], epoch: int, start: int) -> None:
        self._loader, self._epoch, self._number = loader, epoch, start
        self._replaced = False
        producer = BatchProducer(loader, batches)
        self._queue = producer.output_queue
        # Also if a loop is left early, and at the interpreter's exit.
        self.close = weakref.finalize(self, producer.close)

    def __next__(self) -> Batch:
        if self._replaced:
            what = "another iteration of this loader has begun before this one was over"
            raise LoadError(what, where=self._loader.beton.path, remedy="use a loader for each, or one after the other")
        if not self.close.alive:
            raise StopIteration
        self._loader.decode.check_open()
        item = self._queue.get()
        if item is None or isinstance(item, Exception):
            self.close()
            raise StopIteration if item is None else item
        batch: Batch = self._loader.hand_over(item, self._epoch, self._number)
        self._number += 1
        return batch

    def replace(self) -> None:
        """End it for another iterator. Asked for more batches, it says so, instead of ending as if those were all."""
        self._replaced = self.close.alive
        self.close()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
