"""The same decoding as FFCV Operations, for a stock `ffcv.loader.Loader`.

    crop = KeyedRandomResizedCrop(px=128, min_scale=0.08, seed=0)
    loader = Loader(path, pipelines={"image": [crop, ToTensor(), ToTorchImage()], ...}, ...)
    for epoch in range(epochs):
        crop.set_epoch(epoch)
        for images, labels in checked(loader):

`training.loaders` makes the same pixels without FFCV's code generation, thread and queue; this is for pipelines that
go on with other Operations of FFCV.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.state import State

from data_tools.native.library import library
from training.loader.beton_reader import LoadError
from training.loader.crops import CropRule


class _CropDecoder(SimpleRGBImageDecoder):
    """One native call per image: region-of-interest decode, resize and flip, straight into the batch."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self._rule = 0  # the address of a native CropRule; 0 takes the centre
        self._rectangle_px = 0  # the shorter side where the shape follows the batch

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self.height, self.width, 3), np.dtype("u1")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        load_crop, read, each = library().native_load_crop, self.memory_read, Compiler.get_iterator()
        rule, fixed_height, fixed_width, px = self._rule, self.height, self.width, self._rectangle_px

        def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            n, height, width = len(batch_indices), fixed_height, fixed_width
            if px:
                ratios = 0.0
                for i in range(n):
                    ratios += metadata[batch_indices[i]]["width"] / metadata[batch_indices[i]]["height"]
                mean = ratios / n
                longer = max(px, int(px * max(mean, 1 / mean)) // 8 * 8)
                height, width = (px, longer) if mean >= 1 else (longer, px)
            images = destination.reshape(-1)[: n * height * width * 3].reshape((n, height, width, 3))
            failed = np.zeros(n, np.int32)
            for i in each(n):
                sample = batch_indices[i]
                field = metadata[sample]
                data = read(field["data_ptr"], storage_state)
                failed[i] = load_crop(
                    *(data.ctypes.data, data.size, field["mode"], field["width"], field["height"]),
                    *(rule, sample, images[i].ctypes.data, height, width),
                )
            if failed.any():
                raise ValueError("a sample of the beton cannot be decoded")
            return images

        decode.is_parallel = True  # type: ignore[attr-defined]  # FFCV's way to ask for prange
        return decode


class KeyedRandomResizedCrop(_CropDecoder):
    """torchvision's RandomResizedCrop to (px, px) and a flip, keyed on (seed, epoch, sample)."""

    def __init__(self, px: int, *, min_scale: float, seed: int, max_scale: float = 1.0) -> None:
        super().__init__(px, px)
        self._native = CropRule(seed=seed, epoch=0, min_scale=min_scale, max_scale=max_scale).native()
        self._rule = ctypes.addressof(self._native)

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; not while one is being loaded."""
        self._native.epoch = epoch


class CentreCrop(_CropDecoder):
    """Resize(int(px * 1.14)) and a centre crop of px as one crop-and-resize."""

    def __init__(self, px: int) -> None:
        super().__init__(px, px)


class RectangularCrop(_CropDecoder):
    """Crops to the shape of the batch: the shorter side is px, the longer follows the mean ratio of the batch.

    For a Loader with `indices` sorted by width / height and sequential order.
    """

    def __init__(self, px: int) -> None:
        super().__init__(px, px)
        self._rectangle_px = px

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        sides = self.metadata["width"].astype(np.float64), self.metadata["height"].astype(np.float64)
        widest = max((sides[0] / sides[1]).max(), (sides[1] / sides[0]).max())
        self.height, self.width = self._rectangle_px, int(self._rectangle_px * widest)
        return super().declare_state_and_memory(previous_state)


def checked(loader: Loader) -> Iterator[Any]:
    """The batches of a stock Loader; LoadError when its thread has died, where FFCV would wait for ever."""
    batches = iter(loader)
    try:
        while True:
            while batches.output_queue.empty() and batches.is_alive():
                batches.join(0.002)
            if batches.output_queue.empty():
                raise LoadError(
                    "FFCV's thread died (its traceback is above)",
                    where=loader.fname,
                    remedy="a damaged sample does that",
                )
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch
    finally:
        batches.close()
