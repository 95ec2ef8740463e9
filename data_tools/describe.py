"""Describe a beton (fields, sizes, classes, how its images are stored), and draw a contact sheet."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field

from data_tools.beton import contact_sheet
from data_tools.beton.checks import check_structure
from data_tools.beton.format import JPG, RAW, Layout, read_layout
from data_tools.beton.manifest import Manifest, read_manifest
from data_tools.common.console import plural
from data_tools.common.errors import MissingFileError, UserError, printable, program
from data_tools.common.options import Argument, Picture, Section, parse
from data_tools.convert import transcode
from data_tools.native import codec

PROBED = 1000  # samples whose JPEG headers are read
SHEET = 48  # samples on a contact sheet
CELL_PX = 160
SOURCES = 5  # that are named


class DescribeOptions(Section):
    file: Annotated[Path, Argument("FILE.beton")] = Field(description="beton to describe")
    sheet: Picture | None = Field(
        None, description="draw 48 of its images into this file (.png, .jpg, .webp); by default no sheet"
    )


@program("data_tools.describe")
def main(argv: Sequence[str]) -> int:
    options = parse(DescribeOptions, argv, prog="data_tools.describe", description=__doc__)
    if not options.file.exists():
        raise MissingFileError("no beton here", where=options.file, remedy="run write_datasets.py")
    layout, manifest = read_layout(options.file), None
    with contextlib.suppress(UserError):
        manifest = read_manifest(options.file)
    for line in describe(layout, manifest):
        print(printable(line))
    if options.sheet:
        contact_sheet.save([sheet_row(layout, manifest)], 1, options.sheet)
        print(f"\ncontact sheet: {printable(str(options.sheet))}")
    return 0


def _sources(manifest: Manifest) -> str:
    """The first few, since ImageNet's parquet has hundreds."""
    named = [f"{source.name} ({source.bytes:,} bytes)" for source in manifest.sources]
    return ", ".join(named[:SOURCES] + [f"and {len(named) - SOURCES:,} more"] * (len(named) > SOURCES))


def describe(layout: Layout, manifest: Manifest | None) -> Iterator[str]:
    """The description, line by line. BetonError where the tables are damaged."""
    count, page = len(layout.samples), layout.page_bytes >> 20
    yield f"{layout.path}: {plural(count, 'image')}, {layout.file_bytes:,} bytes, pages of {page} MiB"
    yield "fields: {} (RGBImageField), {} (IntField)".format(*layout.fields)
    if manifest:
        cap = f"{manifest.side} side at most {manifest.cap} px" if manifest.cap else "full size"
        cap += f" by {manifest.filter}" if manifest.filter else ""
        jpegs = f"quality {manifest.quality or 'unknown'}{', seekable' if manifest.seekable else ''}"
        own = f", {manifest.modes['original']:,} as the source's own JPEG" if manifest.modes["original"] else ""
        yield f"{manifest.split}, {cap}, {manifest.mode}, {jpegs}{own}, {len(manifest.skipped)} left out"
        yield f"from {_sources(manifest)}"
        yield f"digest {manifest.digest}"
    else:
        yield "no manifest beside it"
    check_structure(layout.path, manifest)  # the rest trusts the tables
    if count:
        yield from _sizes(layout)
        yield from _classes(layout, manifest)
        yield from _storage(layout)


def _sizes(layout: Layout) -> Iterator[str]:
    image = layout.samples["f0"]
    width, height = image["width"].astype(np.int64), image["height"].astype(np.int64)
    yield ""
    for name, values in (
        ("width", width),
        ("height", height),
        ("shorter side", np.minimum(width, height)),
        ("bytes an image", layout.sizes().astype(np.int64)),
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


def _classes(layout: Layout, manifest: Manifest | None) -> Iterator[str]:
    labels, counts = np.unique(layout.samples["f1"], return_counts=True)
    if manifest:  # some of its classes may have no image
        labels = np.arange(len(manifest.classes))
        counts = np.bincount(layout.samples["f1"], minlength=len(labels))
    fewest, most = (
        f"{counts[at]:,} ({_class(int(labels[at]), manifest)})" for at in (counts.argmin(), counts.argmax())
    )
    yield ""
    yield (
        f"{plural(len(counts), 'class')}, {int((counts > 0).sum()):,} with images: "
        f"fewest {fewest}, median {np.median(counts):,.0f}, most {most}"
    )


def _storage(layout: Layout) -> Iterator[str]:
    modes = layout.samples["f0"]["mode"]
    jpg = np.flatnonzero(modes == JPG)
    yield ""
    yield f"stored as JPEG {len(jpg):,}, as pixels {int((modes == RAW).sum()):,}"
    probed = _spread(jpg, PROBED)
    sampling: Counter[str] = Counter()
    quality: Counter[str] = Counter()
    for data in _stored(layout, probed):
        try:
            info = codec.probe(data)
        except codec.NativeError:
            sampling["unreadable"] += 1
            continue
        sampling[f"{info.subsampling}{' progressive' if info.progressive else ''}"] += 1
        quality[str(info.quality_estimate)] += 1
    for name, counter in (("subsampling", sampling), ("quality (estimate)", quality)):
        shares = ", ".join(f"{key} {count / counter.total():.0%}" for key, count in counter.most_common(8))
        if shares:
            yield f"{name} of {len(probed):,} looked at: {shares}"


def _class(label: int, manifest: Manifest | None) -> str:
    return f"{label} {manifest.classes[label]}" if manifest and label < len(manifest.classes) else str(label)


def _spread(samples: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most ``count`` of the samples, evenly spaced."""
    spread: NDArray[np.intp] = samples[np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)]
    return spread


def _stored(layout: Layout, samples: NDArray[np.intp]) -> Iterator[bytes]:
    sizes = layout.sizes()
    handle = os.open(layout.path, os.O_RDONLY)
    try:
        for sample in samples:
            yield os.pread(handle, int(sizes[sample]), int(layout.samples["f0"]["data_ptr"][sample]))
    finally:
        os.close(handle)


def sheet_row(layout: Layout, manifest: Manifest | None) -> contact_sheet.Row:
    """Evenly spaced samples, each with its number and class."""
    crops = []
    samples = _spread(np.arange(len(layout.samples)), SHEET)
    for sample, data in zip(samples, _stored(layout, samples), strict=True):
        label = _class(int(layout.samples["f1"][sample]), manifest)
        try:
            picture = Image.fromarray(_pixels(data, layout.samples["f0"][sample]))
        except (transcode.BadImageError, ValueError) as error:
            picture, label = Image.new("RGB", (CELL_PX, CELL_PX)), f"unreadable: {error}"
        cell = ImageOps.pad(picture, (CELL_PX, CELL_PX), Image.Resampling.LANCZOS, "white")
        crops.append(contact_sheet.Crop(np.asarray(cell), printable(f"{sample}: {label}")))
    return contact_sheet.Row(printable(layout.path.name), crops)


def _pixels(data: bytes, image: Any) -> NDArray[np.uint8]:
    if image["mode"] == RAW:
        return np.frombuffer(data, np.uint8).reshape(int(image["height"]), int(image["width"]), 3)
    return transcode.decode(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
