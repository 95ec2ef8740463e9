"""How fast the loader is, against stock FFCV on the same files, a bare C loop around its native call, and peers.

    python benchmarks/load.py [--source ../shared/data/imagenet-sample.tar] [--repeats 5] [--json FILE]
    uv run --with nvidia-dali-cuda130 python benchmarks/load.py            # with DALI's CPU pipeline among the peers

Random resized crop and horizontal flip, uint8 batches on the host, page cache warm. One row per loader and number of
cores: every loader takes its turn in each repeat; medians are reported, and medians of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

BATCH = 100
Run = Callable[[int], Iterator[int]]  # epoch -> how many images each batch has


@dataclass(frozen=True, slots=True)
class Case:
    """A set of a conversion and the crops that a phase of the recipe takes of it."""

    name: str
    cap: str
    px: int
    min_scale: float


CASES = (Case("160-128", "160", 128, 0.08), Case("320-224", "320", 224, 0.087), Case("full-288", "full", 288, 0.5))


def main() -> int:
    given = _arguments()
    _show_machine()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        work = Path(name)
        _prepare(given.source, work, given.images)
        for case in (each for each in CASES if each.name in given.cases):
            for cores in given.cores:  # in a process of its own: libraries count the cores when they are imported
                use = set(sorted(os.sched_getaffinity(0))[:cores])
                with ProcessPoolExecutor(1, get_context("spawn"), os.sched_setaffinity, (0, use)) as process:
                    rows += process.submit(_measure, case, cores, work, given.repeats, given.peers).result()
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared/data/imagenet-sample.tar"
    parser.add_argument("--source", type=Path, default=shared, help="a sorted tar of photographs")
    parser.add_argument("--images", type=int, default=1000, help="how many; the source's are repeated")
    parser.add_argument("--repeats", type=int, default=5, help="alternations")
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only ours, stock and the C loop")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path, help="write the rows here")
    given = parser.parse_args()
    if not given.source.exists():
        parser.error(f"{given.source}: no such file; give --source a sorted tar of photographs")
    given.cores = [cores for cores in given.cores if cores <= len(os.sched_getaffinity(0))]
    return given


def _show_machine() -> None:
    from data_tools import native

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    names = ("ffcv", "numba", "numpy", "torch", "torchvision", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    name = cpu.partition(": ")[2] or platform.machine()
    print(f"{name}, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(f"{versions}, {native.libjpeg_version()}")


def _prepare(source: Path, work: Path, images: int) -> None:
    """Betons of the source's photographs, repeated, and the same photographs as JPEG files of each size for peers."""
    from data_tools import beton
    from data_tools.spec import Data, Write, WriteSpec

    with tarfile.open(source) as tar:
        files = [tar.extractfile(info).read() for info in tar if info.isfile() and "/train/" in info.name]  # type: ignore[union-attr]
    with tarfile.open(work / "sorted.tar", "w") as tar:
        for at in range(images):
            info = tarfile.TarInfo(f"raw-data/train/n{at % 10:08d}/{at:06d}.JPEG")
            info.size = len(files[at % len(files)])
            tar.addfile(info, io.BytesIO(files[at % len(files)]))
    caps = tuple(case.cap for case in CASES)
    beton.write(WriteSpec(data=Data(source=(work / "sorted.tar",), out=work, caps=caps), write=Write()))
    for case in CASES:
        _unpack(work / f"train_{case.cap}.beton", work / f"files_{case.cap}")


def _unpack(path: Path, folder: Path) -> None:
    """The stored JPEGs as files in folders by class: the same bytes for everybody."""
    from data_tools import layout

    found, data = layout.read(path), path.read_bytes()
    for at, (sample, size) in enumerate(zip(found.samples, found.sizes(), strict=True)):
        start = int(sample["f0"]["data_ptr"])
        place = folder / f"{sample['f1']:04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{at:06d}.jpg").write_bytes(data[start : start + int(size)])


def _measure(case: Case, cores: int, work: Path, repeats: int, peers: bool) -> list[dict[str, Any]]:
    from ffcv.loader import Loader  # noqa: F401  # imports are not part of a first batch

    from training.loaders import TrainLoader  # noqa: F401

    runs: dict[str, Run] = {}
    first: dict[str, float] = {}
    for name, make in LOADERS.items():
        began = time.perf_counter()
        run = make(case, work, cores) if peers or name in CORE else None
        if run is not None:
            runs[name], batches = run, run(0)
            next(batches)
            first[name] = time.perf_counter() - began
            sum(batches)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for epoch in range(1, repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            images = sum(run(epoch))
            speeds[name].append(images / (time.perf_counter() - began))
    rows = [_row(case, cores, name, "stock", speeds) for name in speeds]
    rows.insert(1, _row(case, cores, "ours", "c_loop", speeds))
    _show(case, cores, rows, speeds, first)
    return rows


def _show(
    case: Case, cores: int, rows: list[dict[str, Any]], speeds: dict[str, list[float]], first: dict[str, float]
) -> None:
    print(f"\n{case.name}, {cores} core{'s' if cores > 1 else ''}")
    print(f"  {'':<12}{'images/s':>9} {'(least - most)':<17}{'ratio':>6}{'':<11}{'first batch':>13}")
    for row in rows:
        name, of = row["name"], f"x {row['baseline']}"
        spread = f"({min(speeds[name]):.0f} - {max(speeds[name]):.0f})"
        print(
            f"  {name:<12}{row['images_per_s']:>9.0f} {spread:<17}{row['ratio']:>6.2f} {of:<10}{first[name]:>11.2f} s"
        )
    sys.stdout.flush()


def _row(case: Case, cores: int, name: str, baseline: str, speeds: dict[str, list[float]]) -> dict[str, Any]:
    ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds[baseline], strict=True))
    speed = statistics.median(speeds[name])
    return {
        "case": case.name,
        "name": name,
        "images_per_s": round(speed, 1),
        "baseline": baseline,
        "ratio": round(ratio, 3),
        "cores": cores,
    }


def _sizes(batches: Iterable[Any]) -> Iterator[int]:
    return (len(batch[0]) for batch in batches)


def _ours(case: Case, work: Path, cores: int) -> Run:
    import torch

    from training.loaders import TrainLoader

    path, cpu = work / f"train_{case.cap}.beton", torch.device("cpu")
    loader = TrainLoader(path, px=case.px, batch=BATCH, min_scale=case.min_scale, seed=0, workers=cores, device=cpu)
    return lambda epoch: _sizes(loader.epoch(epoch))


def _c_loop(case: Case, work: Path, cores: int) -> Run:
    """The loader's native call and its crops, each core going through its share: no batches, no order, no hand-over."""
    import numpy as np

    from data_tools.native import library
    from training.crops import CropRule, random_crops
    from training.engine import Request, Work
    from training.opened import Opened
    from training.transfer import HostBuffers

    beton = Opened(work / f"train_{case.cap}.beton")
    buffers, threads = HostBuffers(pinned=False), ThreadPoolExecutor(cores)

    def loop(works: list[Work]) -> int:
        error = ctypes.create_string_buffer(256)
        for each in works:
            if library.native_loop(ctypes.byref(each.native), error):
                raise RuntimeError(error.value)
        return sum(len(each.request.samples) for each in works)

    def run(epoch: int) -> Iterator[int]:
        samples = np.random.default_rng(epoch).permutation(beton.images)
        rule = CropRule(seed=0, epoch=epoch, min_scale=case.min_scale)
        works: list[Work] = []
        out = [buffers.take(BATCH, case.px, case.px) for _ in range(cores)]
        for at in range(0, len(samples) // BATCH * BATCH, BATCH):
            part = samples[at : at + BATCH]
            tasks = beton.tasks(part, random_crops(rule, part, beton.widths[part], beton.heights[part]))
            request = Request(beton.file, tasks, case.px, case.px, beton.labels[part], part)
            works.append(Work(request, out[len(works) % cores]))
        return threads.map(loop, (works[i::cores] for i in range(cores)))

    return run


def _stock(case: Case, work: Path, cores: int) -> Run:
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    crop = RandomResizedCropRGBImageDecoder((case.px, case.px), scale=(case.min_scale, 1.0))
    return _ffcv(case, work, cores, [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage()])


def _operation(case: Case, work: Path, cores: int) -> Run:
    """Our Operation in a stock FFCV Loader."""
    from ffcv.transforms import ToTensor, ToTorchImage

    from training.decoders import KeyedRandomResizedCrop

    crop = KeyedRandomResizedCrop(case.px, min_scale=case.min_scale, seed=0)
    return _ffcv(case, work, cores, [crop, ToTensor(), ToTorchImage()])


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

    built = pipe()
    built.build()
    return lambda epoch: (len(built.run()[0]) for _ in range(built.epoch_size("files") // BATCH))


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
    "operation": _operation,
    "dali": _dali,
    "torchvision": _torchvision,
    "pil": _pil,
}
CORE = ("ours", "stock", "c_loop", "operation")

if __name__ == "__main__":
    sys.exit(main())
