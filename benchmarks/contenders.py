"""The loaders that load.py measures: ours, a bare loop around its native call, FFCV's, and peers.

Each takes a case, the folder of its files and a number of cores, and returns a function from an epoch to the sizes of
its batches, or None if its library is not installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BATCH = 100
Run = Callable[[int], Iterator[int]]  # epoch -> how many images each batch has


@dataclass(frozen=True, slots=True)
class Case:
    """A beton and the crops that a phase of the recipe takes from it. `other`: the cap of the same pictures stored the
    other way, without restart markers if the default has them; a cap of 5000 leaves sizes as they are, with markers."""

    name: str
    cap: str
    other: str
    px: int
    min_scale: float


CASES = (
    Case("160-128", "160", "160", 128, 0.08),
    Case("320-224", "320", "320", 224, 0.087),
    Case("full-288", "full", "5000", 288, 0.5),
)


def _sizes(batches: Iterable[Any]) -> Iterator[int]:
    return (len(batch[0]) for batch in batches)


def _ours(case: Case, work: Path, cores: int, checksums: bool = True) -> Run:
    import torch

    from training.loader.loaders import TrainLoader

    path, cpu = work / f"train_{case.cap}.beton", torch.device("cpu")
    loader = TrainLoader(
        path,
        px=case.px,
        batch=BATCH,
        min_scale=case.min_scale,
        seed=0,
        workers=cores,
        device=cpu,
        checksums=checksums,
    )
    return lambda epoch: _sizes(loader.epoch(epoch))


def _c_loop(case: Case, work: Path, cores: int) -> Run:
    """The loader's native call and its crops, each core on its share: no batches, no order, no queues."""
    import numpy as np

    from data_tools.native.library import library
    from training.loader.beton_reader import BetonReader
    from training.loader.crops import RandomCrops
    from training.loader.device_transfer import HostBuffers
    from training.loader.ffcv_operations import PendingBatch

    beton = BetonReader(work / f"train_{case.cap}.beton")
    buffers, threads = HostBuffers(pinned=False), ThreadPoolExecutor(cores)

    def loop(batches: list[PendingBatch]) -> int:
        error = ctypes.create_string_buffer(256)
        for batch in batches:
            if library().native_loop(ctypes.byref(batch), error):
                raise RuntimeError(error.value)
        return sum(len(batch.samples) for batch in batches)

    def run(epoch: int) -> Iterator[int]:
        samples = np.random.default_rng(epoch).permutation(beton.images)
        rule = RandomCrops(px=case.px, min_scale=case.min_scale, epoch=epoch)
        batches: list[PendingBatch] = []
        out = [buffers.allocate(BATCH, case.px, case.px) for _ in range(cores)]
        for at in range(0, len(samples) // BATCH * BATCH, BATCH):
            part = samples[at : at + BATCH]
            _, _, crops = rule.of(part, beton.widths[part], beton.heights[part])
            batches.append(PendingBatch(beton, part, crops, out[len(batches) % cores]))
        return threads.map(loop, (batches[i::cores] for i in range(cores)))

    return run


def _unchecked(case: Case, work: Path, cores: int) -> Run:
    """Our loader without checksums."""
    return _ours(case, work, cores, checksums=False)


def _ours_other(case: Case, work: Path, cores: int) -> Run:
    return _ours(replace(case, cap=case.other), work / "other", cores)


def _stock_other(case: Case, work: Path, cores: int) -> Run:
    return _stock(replace(case, cap=case.other), work / "other", cores)


def _stock(case: Case, work: Path, cores: int) -> Run:
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    crop = RandomResizedCropRGBImageDecoder((case.px, case.px), scale=(case.min_scale, 1.0))
    return _ffcv(case, work, cores, [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage()])


def _operation(case: Case, work: Path, cores: int) -> Run:
    """Our Operation in a stock FFCV Loader."""
    from ffcv.transforms import ToTensor, ToTorchImage

    from training.loader.crops import RandomCrops
    from training.loader.ffcv_operations import DecodeBatch

    path = work / f"train_{case.cap}.beton"
    decode = DecodeBatch(path, RandomCrops(px=case.px, min_scale=case.min_scale), workers=cores)
    return _ffcv(case, work, cores, [decode, ToTensor(), ToTorchImage()])


def _ffcv(case: Case, work: Path, cores: int, image: list[Any]) -> Run:
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor

    loader = Loader(
        str(work / f"train_{case.cap}.beton"),
        batch_size=BATCH,
        num_workers=cores,
        order=OrderOption.RANDOM,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]},
    )
    return lambda epoch: _sizes(loader)


def _dali(case: Case, work: Path, cores: int) -> Run | None:
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return None
    from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-untyped]

    @pipeline_def(batch_size=BATCH, num_threads=cores, device_id=None, exec_dynamic=True)
    def pipe() -> Any:
        data, label = fn.readers.file(file_root=str(work / f"files_{case.cap}"), random_shuffle=True, name="files")
        image = fn.decoders.image_random_crop(
            data,
            device="cpu",
            random_area=[case.min_scale, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
            output_type=types.RGB,
        )
        image = fn.resize(image, size=[case.px, case.px], interp_type=types.INTERP_TRIANGULAR)
        return fn.flip(image, horizontal=fn.random.coin_flip()), label

    pipeline = pipe()
    pipeline.build()
    return lambda epoch: (len(pipeline.run()[0]) for _ in range(pipeline.epoch_size("files") // BATCH))


def _folder(case: Case, work: Path, cores: int, loader: Callable[[str], Any], steps: list[Any]) -> Run:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = [v2.RandomResizedCrop(case.px, scale=(case.min_scale, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    data = datasets.ImageFolder(str(work / f"files_{case.cap}"), v2.Compose([*crop, *steps]), loader=loader)
    batches = DataLoader(
        data, BATCH, shuffle=True, num_workers=cores, persistent_workers=True, multiprocessing_context="forkserver"
    )
    return lambda epoch: _sizes(batches)


def _read_jpeg(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def _torchvision(case: Case, work: Path, cores: int) -> Run:
    return _folder(case, work, cores, _read_jpeg, [])


def _pil(case: Case, work: Path, cores: int) -> Run:
    """ImageFolder as imagenet18 had it."""
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import v2

    return _folder(case, work, cores, pil_loader, [v2.PILToTensor()])


LOADERS: dict[str, Callable[[Case, Path, int], Run | None]] = {
    "ours": _ours,
    "stock": _stock,
    "c_loop": _c_loop,
    "unchecked": _unchecked,
    "ours_other": _ours_other,
    "stock_other": _stock_other,
    "operation": _operation,
    "dali": _dali,
    "torchvision": _torchvision,
    "pil": _pil,
}
