"""What is in a beton: fields, sizes, classes, how its pictures are stored, and a sheet of them to look at.

python -m data_tools.describe FILE.beton [--sheet out.png]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton import format as layout
from data_tools.beton import manifest
from data_tools.beton.format import Layout
from data_tools.beton.manifest import Manifest
from data_tools.convert import transcode as images
from data_tools.native import codec as native

LOOKED_AT = 1000  # samples whose JPEG headers are read
SHEET = (8, 6)  # columns, rows
CELL_PX = 160


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_tools.describe", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE.beton")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet")
    given = parser.parse_args(argv)
    try:
        found = layout.read(given.file)
        record = _record(given.file)
        print("\n".join(describe(found, record)))
        if given.sheet:
            contact_sheet(found, record).save(given.sheet)
            print(f"\ncontact sheet: {given.sheet}")
    except (OSError, layout.LayoutError) as error:
        print(f"describe: error: {error}", file=sys.stderr)
        return 1
    return 0


def _record(path: Path) -> Manifest | None:
    try:
        return manifest.read(path)
    except (OSError, manifest.ManifestError):
        return None


def describe(found: Layout, record: Manifest | None) -> Iterator[str]:
    """The description, line by line."""
    count = len(found.samples)
    yield f"{found.path}: {count:,} images, {found.file_bytes:,} bytes, pages of {found.page_bytes >> 20} MiB"
    yield "fields: image (RGBImageField), label (IntField)"
    if record:
        cap = f"{record.side} side at most {record.cap} px" if record.cap else "full size"
        jpegs = f"quality {record.quality}{', seekable' if record.seekable else ''}"
        own = f", {record.modes['original']:,} as the source's own JPEG" if record.modes["original"] else ""
        yield f"{record.split}, {cap}, {record.mode}, {jpegs}{own}, {len(record.skipped)} left out"
        yield f"from {', '.join(f'{source.name} ({source.bytes:,} bytes)' for source in record.sources)}"
        yield f"digest {record.digest}"
    else:
        yield "no manifest beside it"
    if not count:
        return
    yield from _sizes(found)
    yield from _classes(found, record)
    yield from _storage(found)


def _sizes(found: Layout) -> Iterator[str]:
    image = found.samples["f0"]
    width, height = image["width"].astype(np.int64), image["height"].astype(np.int64)
    yield ""
    for name, values in (
        ("width", width),
        ("height", height),
        ("shorter side", np.minimum(width, height)),
        ("bytes an image", found.sizes().astype(np.int64)),
    ):
        low, middle, high = np.percentile(values, [1, 50, 99])
        yield (
            f"{name:<16}min {values.min():>9,}  1% {low:>9,.0f}  median {middle:>9,.0f}  99% {high:>9,.0f}"
            f"  max {values.max():>9,}  mean {values.mean():>11,.1f}"
        )
    yield ""
    yield "width / height"
    edges = [0, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.2, 1.4, 1.6, 2.0, np.inf]
    counts, _ = np.histogram(width / height, edges)
    for low, high, number in zip(edges, edges[1:], counts, strict=False):
        name = f"{low:.2f} to {high:.2f}" if np.isfinite(high) else f"{low:.2f} and more"
        yield f"  {name:<16}{number:>10,}  {'#' * round(50 * number / counts.max())}"


def _classes(found: Layout, record: Manifest | None) -> Iterator[str]:
    counts = np.bincount(found.samples["f1"], minlength=len(record.classes) if record else 0)

    def name(label: int) -> str:
        return f"{label} {record.classes[label]}" if record and label < len(record.classes) else str(label)

    least, most = int(counts.argmin()), int(counts.argmax())
    yield ""
    yield (
        f"{len(counts):,} classes, {int((counts > 0).sum()):,} with images: fewest {counts[least]:,} ({name(least)}), "
        f"median {np.median(counts):,.0f}, most {counts[most]:,} ({name(most)})"
    )


def _storage(found: Layout) -> Iterator[str]:
    modes = found.samples["f0"]["mode"]
    jpg = np.flatnonzero(modes == layout.JPG)
    yield ""
    yield f"stored as JPEG {len(jpg):,}, as pixels {int((modes == layout.RAW).sum()):,}"
    some = jpg[np.unique(np.linspace(0, len(jpg) - 1, min(len(jpg), LOOKED_AT)).astype(int))] if len(jpg) else jpg
    sampling: Counter[str] = Counter()
    quality: Counter[str] = Counter()
    for data in _stored(found, some):
        try:
            info = native.probe(data)
        except native.NativeError:
            sampling["unreadable"] += 1
            continue
        sampling[f"{info.subsampling}{' progressive' if info.progressive else ''}"] += 1
        quality[str(info.quality_estimate)] += 1
    for name, counter in (("subsampling", sampling), ("quality (estimate)", quality)):
        shares = ", ".join(f"{key} {count / counter.total():.0%}" for key, count in counter.most_common(8))
        if shares:
            yield f"{name} of {len(some):,} looked at: {shares}"


def _stored(found: Layout, samples: NDArray[Any]) -> Iterator[bytes]:
    sizes = found.sizes()
    handle = os.open(found.path, os.O_RDONLY)
    try:
        for sample in samples:
            yield os.pread(handle, int(sizes[sample]), int(found.samples["f0"]["data_ptr"][sample]))
    finally:
        os.close(handle)


def contact_sheet(found: Layout, record: Manifest | None) -> Any:
    """A PIL image of evenly spaced samples, each with its number and class."""
    from PIL import Image, ImageDraw

    columns, rows = SHEET
    line = 14
    sheet = Image.new("RGB", (columns * CELL_PX, rows * (CELL_PX + line)), "white")
    draw = ImageDraw.Draw(sheet)
    samples = np.unique(np.linspace(0, len(found.samples) - 1, min(columns * rows, len(found.samples))).astype(int))
    for at, (sample, data) in enumerate(zip(samples, _stored(found, samples), strict=True)):
        image = found.samples["f0"][sample]
        left, top = at % columns * CELL_PX, at // columns * (CELL_PX + line)
        label = int(found.samples["f1"][sample])
        name = record.classes[label] if record and label < len(record.classes) else str(label)
        draw.text((left + 2, top + 1), f"{sample}: {name}"[:26], fill="black")
        try:
            picture = Image.fromarray(_pixels(data, image))
        except (images.BadImageError, ValueError) as error:
            draw.text((left + 2, top + line + 2), f"unreadable\n{error}"[:60], fill="red")
            continue
        picture.thumbnail((CELL_PX - 4, CELL_PX - 4), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + 2, top + line))
    return sheet


def _pixels(data: bytes, image: Any) -> NDArray[np.uint8]:
    if image["mode"] == layout.RAW:
        return np.frombuffer(data, np.uint8).reshape(int(image["height"]), int(image["width"]), 3)
    return images.decode(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
