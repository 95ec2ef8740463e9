"""Check betons: their structure, in seconds for any size; with --full, every byte and every image.

Prints a line for each fault. The exit status is 0 if there is none, else 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_tools.beton.checks import read_checksums, structure_faults
from data_tools.beton.format import RAW, SAMPLES_START, Layout, read_layout
from data_tools.beton.manifest import Manifest, read_manifest
from data_tools.common.errors import UserError, printable, program
from data_tools.common.options import Argument, Section, parse
from data_tools.common.progress_bar import ProgressDisplay
from data_tools.common.resources import usable_cores
from data_tools.convert import transcode
from data_tools.native import codec


class VerifyOptions(Section):
    """One check of betons."""

    files: Annotated[tuple[Path, ...], Argument("FILE.beton")] = Field(description="betons to check")
    full: bool = Field(False, description="also compare every checksum and decode every picture")
    workers: int | None = Field(None, ge=1, description="threads for `--full`; by default one per usable core")


@program("data_tools.verify")
def main(argv: Sequence[str]) -> int:
    options = parse(VerifyOptions, argv, prog="data_tools.verify", description=__doc__)
    sound = True
    for path in options.files:
        whole = True
        for fault in verify(path, full=options.full, workers=options.workers or usable_cores()):
            print(printable(fault))
            whole = False
        if whole:
            how = "" if options.full else " in structure (--full checks every image)"
            print(printable(f"{path}: sound{how}"))
        sound &= whole
    return 0 if sound else 1


def verify(path: Path, *, full: bool = False, workers: int = 1) -> Iterator[str]:
    """Yield a line for every fault of a beton."""
    manifest = None
    try:
        manifest = read_manifest(path)
    except UserError as error:
        yield str(error)
        if not path.exists():
            return
    faults = structure_faults(path, manifest)
    yield from faults
    if faults:
        return  # the checks below trust the tables
    layout = read_layout(path)
    checksums = None
    if manifest is not None:
        try:
            checksums = read_checksums(layout, manifest)
        except UserError as error:
            yield str(error)
    if full:
        yield from _full(layout, manifest, checksums, workers)


# ---------------------------------------------------------------------------------------------- every byte
def _full(
    layout: Layout, manifest: Manifest | None, checksums: NDArray[np.uint64] | None, workers: int
) -> Iterator[str]:
    """Page by page, in threads: the native code releases the GIL."""
    pages, total, done = _pages(layout), len(layout.samples), 0
    progress = ProgressDisplay()
    progress.begin(total, name=layout.path.name)
    handle = os.open(layout.path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(workers) as pool:
            # In slices, so that faults show early and only a few pages are in memory at once.
            for start in range(0, len(pages), 4 * workers):
                batch = pages[start : start + 4 * workers]
                for faults, count in pool.map(lambda page: _page(handle, layout, manifest, checksums, *page), batch):
                    yield from faults
                    done += count
                    progress.advance(done)
        head = SAMPLES_START + layout.samples.nbytes
        first = min((page for page, _ in pages), default=0) * layout.page_bytes
        if first > head and any(os.pread(handle, first - head, head)):
            yield f"{layout.path}: bytes {head} to {first}, between the tables and the first page, are not zero"
    finally:
        progress.close()
        os.close(handle)


def _pages(layout: Layout) -> list[tuple[int, NDArray[Any]]]:
    """Number of every page that has samples, and their alloc entries."""
    alloc = layout.alloc[np.argsort(layout.alloc["ptr"])]
    numbers = (alloc["ptr"] // layout.page_bytes).astype(np.int64)
    bounds = np.flatnonzero(np.diff(numbers)) + 1
    return [
        (int(same[0]), entries)
        for same, entries in zip(np.split(numbers, bounds), np.split(alloc, bounds), strict=True)
        if len(same)
    ]


def _page(
    handle: int,
    layout: Layout,
    manifest: Manifest | None,
    checksums: NDArray[np.uint64] | None,
    page: int,
    entries: NDArray[Any],
) -> tuple[list[str], int]:
    start = page * layout.page_bytes
    content = os.pread(handle, layout.page_bytes, start)
    faults, end = [], 0
    for sample, pointer, size in entries.tolist():
        offset = pointer - start
        if any(content[end:offset]):
            faults.append(f"{layout.path}: the bytes before sample {sample} are not zero")
        end = offset + size
        data = content[offset:end]
        reason = _sample_fault(layout, sample, data, None if checksums is None else int(checksums[sample]))
        if reason:
            faults.append(f"{layout.path}: sample {sample}{_class_name(layout, manifest, sample)}: {reason}")
    if any(content[end:]):
        faults.append(f"{layout.path}: the bytes after the last sample of page {page} are not zero")
    return faults, len(entries)


def _class_name(layout: Layout, manifest: Manifest | None, sample: int) -> str:
    return f" ({manifest.classes[int(layout.samples['f1'][sample])]})" if manifest else ""


def _sample_fault(layout: Layout, sample: int, data: bytes, checksum: int | None) -> str:
    """What is wrong with a sample; empty if nothing is."""
    if checksum is not None and codec.checksum(data) != checksum:
        return "its bytes do not match their checksum"
    image = layout.samples["f0"][sample]
    if image["mode"] == RAW:
        return ""
    try:
        height, width = transcode.decode(data, strict=True).shape[:2]
    except transcode.BadImageError as error:
        return str(error)
    if (width, height) != (int(image["width"]), int(image["height"])):
        return f"decodes to {width} x {height} where the file says {image['width']} x {image['height']}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
