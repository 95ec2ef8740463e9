"""Host memory for batches, and their way to the GPU: pinned memory, a separate stream, uint8."""

import weakref

import numpy as np
import torch
from numpy.typing import NDArray

Copied = tuple[torch.Tensor, torch.Tensor, "torch.cuda.Event | None"]  # on the device once the event has happened


def buffer_bytes(pixels: int, pinned: bool) -> int:
    """Bytes that a buffer for a batch of so many pixels takes.

    Torch's cache of pinned memory rounds each request up to a power of two: 224 images of 224 px, 34 MB, take 64 MiB.
    """
    needed = pixels * 3
    return 1 << (needed - 1).bit_length() if pinned and needed else needed


class HostBuffers:
    """Memory for batches on the host.

    On the way to a GPU, torch's own cache of pinned memory is used: it knows when a copy is done. For the CPU,
    the buffers are kept here, because fresh memory costs a page fault every 4 KB; one comes back when the last
    tensor on it is gone, so a batch stays valid for as long as anybody holds it.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: list[NDArray[np.uint8]] = []

    def allocate(self, samples: int, height: int, width: int) -> torch.Tensor:
        """(samples, height, width, 3) uint8, uninitialised."""
        shape = (samples, height, width, 3)
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        size = samples * height * width * 3
        buffer = self._free.pop() if self._free else np.empty(0, np.uint8)
        if buffer.size < size:
            buffer = np.empty(size, np.uint8)
        view = buffer[:size].reshape(shape)
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return torch.from_numpy(view)


class Copies:
    """Copies to a GPU, on a stream of their own, so that none waits for the computation that is queued already; for the
    CPU, batches are where they should be."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, images: torch.Tensor, labels: torch.Tensor) -> Copied:
        """Begin to copy pinned images and labels; returns at once."""
        if self.stream is None:
            return images, labels, None
        with torch.cuda.stream(self.stream):
            images = images.to(self._device, non_blocking=True)
            labels = labels.pin_memory().to(self._device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self.stream)
        return images, labels, event

    def hand_over(self, copied: Copied) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch for the caller's stream, which waits for the copy; this thread does not."""
        images, labels, event = copied
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            for tensor in (images, labels):
                tensor.record_stream(current)  # its memory is the side stream's: not to be reused while in use here
        return images, labels
