"""Compare the speed of the conversion with ffcv-imagenet's method: PIL and cv2 through DatasetWriter, a pass per size.

    python benchmarks/write.py [--source ../shared/data/imagenet-sample.tar] [--repeats 5] [--json FILE]

Both write 160, 320 and full from the same photographs, capping the longer side as FFCV does, in
turns; medians are reported, and medians of the ratios within a turn. Processes are not pinned to cores. `area` and
`lanczos` are ours with each --write.filter.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

IMAGENET_IMAGES = 1_281_167 + 50_000
CASES = ("encode", "original")
FILTERS = ("area", "lanczos")
Key = tuple[str, str, int]  # case, name, workers
BASELINE: Key = ("both", "ffcv_imagenet", 1)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        images = _prepare(options.source, work, options.images)
        print(f"{images} photographs of {options.source.name}, 160 + 320 + full, {options.repeats} alternations")
        runs: dict[Key, Callable[[], float]] = {
            BASELINE: partial(_ffcv_imagenet, work),
            **{(case, filter, 1): partial(_ours, work, case, 1, filter) for case in CASES for filter in FILTERS},
            **{(case, "area", 2): partial(_ours, work, case, 2, "area") for case in CASES if options.workers > 1},
        }
        seconds: dict[Key, list[float]] = {key: [] for key in runs}
        for _ in range(options.repeats):
            for key, run in runs.items():
                seconds[key].append(run())
    rows = _rows(seconds, images)
    _show(rows, seconds, images)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared/data/imagenet-sample.tar"
    parser.add_argument("--source", type=Path, default=shared, help="a sorted tar of photographs")
    parser.add_argument("--images", type=int, default=4000, help="number of images; the source is repeated to get them")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns, in each of which every case runs once")
    parser.add_argument("--workers", type=int, default=2, help="1: leave out the case with two workers")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.images, options.repeats) < 1:
        parser.error("--images, --repeats: give 1 or more")
    if not options.source.is_file():
        parser.error(f"{options.source}: no such file; give --source a sorted tar of photographs")
    return options


def _prepare(source: Path, work: Path, images: int) -> int:
    """The same photographs as files, for ffcv-imagenet's ImageFolder, and as a sorted tar, for us."""
    with tarfile.open(source) as tar:
        photographs = [tar.extractfile(info).read() for info in tar if info.isfile()]  # type: ignore[union-attr]
    folder = work / "files/train/n00000000"
    folder.mkdir(parents=True)
    with tarfile.open(work / "sorted.tar", "w") as tar:
        for at in range(images):
            data = photographs[at % len(photographs)]
            (folder / f"{at:06d}.JPEG").write_bytes(data)
            info = tarfile.TarInfo(f"raw-data/train/n00000000/{at:06d}.JPEG")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return images


def _ours(work: Path, case: str, workers: int, filter: str) -> float:
    from data_tools.convert.config import Data, Write, WriteSpec
    from data_tools.convert.converter import convert

    out = work / "ours"
    spec = WriteSpec(
        data=Data(
            source=(work / "sorted.tar",),
            out=out,
            splits=("train",),
            caps=("160", "320", "full"),
            side="longer",
            expect="any",  # one class
        ),
        write=Write(full=case, workers=workers, filter=filter),  # type: ignore[arg-type]
    )
    started = time.perf_counter()
    convert(spec)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


class _ImageFolder:
    """What torchvision's ImageFolder hands to DatasetWriter in ffcv-imagenet: PIL images and labels."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(root.rglob("*.JPEG"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        from PIL import Image

        with self.files[at].open("rb") as file:
            return Image.open(file).convert("RGB"), 0


def _ffcv_imagenet(work: Path) -> float:
    """ffcv-imagenet's write_imagenet.py, once for each size, with one worker."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    dataset = _ImageFolder(work / "files")
    out = work / "ffcv_imagenet.beton"
    started = time.perf_counter()
    for longest in (160, 320, None):
        field = RGBImageField(write_mode="jpg", max_resolution=longest, jpeg_quality=90)
        with redirect_stderr(io.StringIO()):
            writer = DatasetWriter(str(out), {"image": field, "label": IntField()}, num_workers=1)
            writer.from_indexed_dataset(dataset, chunksize=100)
        out.unlink()
    return time.perf_counter() - started


def _rows(seconds: dict[Key, list[float]], images: int) -> list[dict[str, Any]]:
    baseline = seconds[BASELINE]
    rows = []
    for case in CASES:
        for (of, name, cores), times in seconds.items():
            if of in (case, "both"):
                row = {"case": case, "name": name, "images_per_s": round(images / statistics.median(times), 1)}
                row |= {"baseline": round(images / statistics.median(baseline), 1)}
                rows.append(row | {"ratio": round(_ratio(baseline, times), 3), "cores": cores})
    return rows


def _ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster, turn by turn, so that other load on the machine affects both alike."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _show(rows: list[dict[str, Any]], seconds: dict[Key, list[float]], images: int) -> None:
    columns = f"{'case':<10}{'name':<15}{'workers':>8}{'images/s':>10}{'(min - max)':>18}{'ratio':>7}"
    print(f"{columns}{'ImageNet, 16 cores':>20}")
    for row in rows:
        times = seconds.get((row["case"], row["name"], row["cores"])) or seconds["both", row["name"], row["cores"]]
        span = f"({images / max(times):.0f} - {images / min(times):.0f})"
        hours = IMAGENET_IMAGES / (row["images_per_s"] / row["cores"] * 16) / 3600
        print(
            f"{row['case']:<10}{row['name']:<15}{row['cores']:>8}{row['images_per_s']:>10.1f}{span:>18}"
            f"{row['ratio']:>7.2f}{hours:>18.2f} h"
        )
    for case in CASES:
        one = seconds[case, "area", 1]
        print(f"{case}: lanczos does {_ratio(one, seconds[case, 'lanczos', 1]):.3f}x of area")
        if (two := (case, "area", 2)) in seconds:
            print(f"{case}: two workers do {_ratio(one, seconds[two]):.2f}x of one")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
