"""Compare the speed of the loader with stock FFCV on the same files, a plain loop around its native call, and others.

    python benchmarks/load.py [--source ../shared/data/imagenet-sample.tar] [--repeats 5] [--json FILE]
    uv run --no-sync --with nvidia-dali-cuda130 python benchmarks/load.py  # with DALI's CPU pipeline, too

`ours_other` and `stock_other` read the same pictures stored the other way: see contenders.Case.

Random resized crop and horizontal flip, uint8 batches on the host, page cache warm. One row per loader and number of
cores. Every loader runs once in each repeat; the rows are medians, and medians of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from contenders import CASES, LOADERS, Case, Run


def main(argv: list[str]) -> int:
    options = arguments(argv)
    _show_machine()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        _prepare(options.source, work, options.images)
        for case in (case for case in CASES if case.name in options.cases):
            for cores in options.cores:  # in a process of its own: libraries count the cores when they are imported
                use = set(sorted(os.sched_getaffinity(0))[:cores])
                with ProcessPoolExecutor(1, get_context("spawn"), os.sched_setaffinity, (0, use)) as process:
                    rows += process.submit(_measure, case, cores, work, options.repeats, options.only).result()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared/data/imagenet-sample.tar"
    parser.add_argument("--source", type=Path, default=shared, help="a sorted tar of photographs")
    parser.add_argument("--images", type=int, default=1000, help="number of images; the source is repeated to get them")
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of turns, in each of which every loader runs once"
    )
    names, cores = [case.name for case in CASES], range(1, 1 + len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--cores", nargs="+", type=int, choices=cores, default=cores[:2], help="of those here [1 2]")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=LOADERS, default=list(LOADERS), help="measure only these loaders"
    )
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.images, options.repeats) < 1:
        parser.error("--images, --repeats: give 1 or more")
    if not options.source.is_file():
        parser.error(f"{options.source}: no such file; give --source a sorted tar of photographs")
    return options


def _show_machine() -> None:
    from data_tools.native import codec

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    names = ("ffcv", "numba", "numpy", "torch", "torchvision", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    name = cpu.partition(": ")[2] or platform.machine()
    print(f"{name}, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(f"{versions}, {codec.libjpeg_version()}")


def _prepare(source: Path, work: Path, images: int) -> None:
    """Betons of the source's photographs, repeated, and the same photographs as JPEG files of each size for peers."""
    from data_tools.convert.config import Data, Write, WriteSpec
    from data_tools.convert.converter import convert

    with tarfile.open(source) as tar:
        files = [tar.extractfile(info).read() for info in tar if info.isfile() and "/train/" in info.name]  # type: ignore[union-attr]
    with tarfile.open(work / "sorted.tar", "w") as tar:
        for at in range(images):
            info = tarfile.TarInfo(f"raw-data/train/n{at % 10:08d}/{at:06d}.JPEG")
            info.size = len(files[at % len(files)])
            tar.addfile(info, io.BytesIO(files[at % len(files)]))
    for out, caps, seekable in (
        (work, tuple(case.cap for case in CASES), True),
        (work / "other", tuple(case.other for case in CASES if case.cap != "full"), False),
        (work / "other", tuple(case.other for case in CASES if case.cap == "full"), True),
    ):
        data = Data(source=(work / "sorted.tar",), out=out, splits=("train",), caps=caps)
        convert(WriteSpec(data=data, write=Write(seekable=seekable)))
    for case in CASES:
        _unpack(work / f"train_{case.cap}.beton", work / f"files_{case.cap}")


def _unpack(path: Path, folder: Path) -> None:
    """Write the stored JPEGs as files in folders by class, so that all loaders read the same bytes."""
    from data_tools.beton.format import read_layout

    layout, data = read_layout(path), path.read_bytes()
    for at, (sample, size) in enumerate(zip(layout.samples, layout.sizes(), strict=True)):
        start = int(sample["f0"]["data_ptr"])
        class_folder = folder / f"{sample['f1']:04d}"
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / f"{at:06d}.jpg").write_bytes(data[start : start + int(size)])


def _measure(case: Case, cores: int, work: Path, repeats: int, only: list[str]) -> list[dict[str, Any]]:
    from ffcv.loader import Loader  # noqa: F401  # so that the first batch is timed without imports

    from training.loader.loaders import TrainLoader  # noqa: F401

    runs: dict[str, Run] = {}
    first: dict[str, float] = {}
    for name, make in LOADERS.items():
        began = time.perf_counter()
        run = make(case, work, cores) if name in only else None
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
    pairs = [("ours", baseline) for baseline in ("stock", "c_loop", "unchecked", "ours_other")]
    pairs += [(name, "stock") for name in speeds if name != "ours"]
    rows = [_row(case, cores, name, of, speeds) for name, of in pairs if name in speeds and of in speeds]
    compared = {row["name"] for row in rows}
    rows += [_row(case, cores, name, name, speeds) for name in speeds if name not in compared]
    _show(case, cores, _bytes_an_image(case, work), rows, speeds, first)
    return rows


def _bytes_an_image(case: Case, work: Path) -> str:
    from data_tools.beton.format import read_layout

    here, other = (
        read_layout(folder / f"train_{cap}.beton").sizes().mean()
        for folder, cap in ((work, case.cap), (work / "other", case.other))
    )
    how = "with" if case.cap == "full" else "without"
    return f"{here:,.0f} bytes an image, {other:,.0f} {how} restart markers (other)"


def _show(
    case: Case,
    cores: int,
    bytes_an_image: str,
    rows: list[dict[str, Any]],
    speeds: dict[str, list[float]],
    first: dict[str, float],
) -> None:
    print(f"\n{case.name}, {cores} core{'s' if cores > 1 else ''}; {bytes_an_image}")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
