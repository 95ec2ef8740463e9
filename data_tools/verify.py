"""Check betons: their structure in seconds whatever their size, with --full every byte and every picture.

    python -m data_tools.verify FILE.beton... [--full] [--workers N]

Exit status 0 only where all holds; otherwise 1, and a line for each fault.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_tools.beton import format as layout
from data_tools.beton import manifest
from data_tools.beton.checks import _checksums, _digest_faults, check
from data_tools.beton.format import Layout
from data_tools.beton.manifest import Manifest
from data_tools.common.resources import usable_cores
from data_tools.convert import transcode as images
from data_tools.native import codec as native


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_tools.verify", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.beton")
    parser.add_argument("--full", action="store_true", help="also every checksum, and decode every image")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads for --full")
    given = parser.parse_args(argv)
    sound = True
    for path in given.files:
        whole = True
        for fault in verify(path, full=given.full, workers=max(given.workers, 1)):
            print(fault)
            whole = False
        if whole:
            print(f"{path}: sound{'' if given.full else ' in structure (--full checks every image)'}")
        sound &= whole
    return 0 if sound else 1


def verify(path: Path, *, full: bool = False, workers: int = 1) -> Iterator[str]:
    """Every fault of a beton, one line each; none when it is sound."""
    try:
        record = manifest.read(path)
    except (OSError, manifest.ManifestError) as error:
        yield str(error)
        record = None
    faults = check(path, record)
    yield from faults
    if faults:
        return  # what follows trusts the tables
    found = layout.read(path)
    checksums = None
    if record is not None:
        try:
            checksums = _checksums(path, record)
            yield from _digest_faults(found, record, checksums)
        except (OSError, ValueError) as error:
            yield f"{path}: {error}"
    if full:
        yield from _full(found, record, checksums, workers)


# ---------------------------------------------------------------------------------------------- every byte
def _full(found: Layout, record: Manifest | None, checksums: NDArray[np.uint64] | None, workers: int) -> Iterator[str]:
    """Page by page, in threads: the native code lets go of the interpreter."""
    pages = _pages(found)
    handle = os.open(found.path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(workers) as pool, tqdm(total=len(found.samples), unit="img", disable=None) as bar:
            # In slices, so that faults show early and a page's buffer is gone before too many others are read.
            for start in range(0, len(pages), 4 * workers):
                some = pages[start : start + 4 * workers]
                for faults, count in pool.map(lambda page: _page(handle, found, record, checksums, *page), some):
                    yield from faults
                    bar.update(count)
        head = layout.SAMPLES_START + found.samples.nbytes
        first = min((page for page, _ in pages), default=0) * found.page_bytes
        if first > head and any(os.pread(handle, first - head, head)):
            yield f"{found.path}: bytes {head} to {first}, between the tables and the first page, are not zero"
    finally:
        os.close(handle)


def _pages(found: Layout) -> list[tuple[int, NDArray[Any]]]:
    """Every page, with the alloc entries of its samples."""
    alloc = found.alloc[np.argsort(found.alloc["ptr"])]
    numbers = (alloc["ptr"] // found.page_bytes).astype(np.int64)
    bounds = np.flatnonzero(np.diff(numbers)) + 1
    return [
        (int(some[0]), entries)
        for some, entries in zip(np.split(numbers, bounds), np.split(alloc, bounds), strict=True)
        if len(some)
    ]


def _page(
    handle: int,
    found: Layout,
    record: Manifest | None,
    checksums: NDArray[np.uint64] | None,
    page: int,
    entries: NDArray[Any],
) -> tuple[list[str], int]:
    start = page * found.page_bytes
    content = os.pread(handle, found.page_bytes, start)
    faults, end = [], 0
    for sample, pointer, size in entries.tolist():
        at = pointer - start
        if any(content[end:at]):
            faults.append(f"{found.path}: the bytes before sample {sample} are not zero")
        end = at + size
        data = content[at:end]
        reason = _sample_fault(found, sample, data, None if checksums is None else int(checksums[sample]))
        if reason:
            faults.append(f"{found.path}: sample {sample}{_class(found, record, sample)}: {reason}")
    if any(content[end:]):
        faults.append(f"{found.path}: the bytes behind the last sample of page {page} are not zero")
    return faults, len(entries)


def _class(found: Layout, record: Manifest | None, sample: int) -> str:
    return f" ({record.classes[int(found.samples['f1'][sample])]})" if record else ""


def _sample_fault(found: Layout, sample: int, data: bytes, checksum: int | None) -> str:
    """Why one sample is not what was written; nothing when it is."""
    if checksum is not None and native.checksum(data) != checksum:
        return "its bytes have not the checksum that they were written with"
    image = found.samples["f0"][sample]
    if image["mode"] == layout.RAW:
        return ""
    try:
        height, width = images.decode(data).shape[:2]
    except images.BadImageError as error:
        return str(error)
    if (width, height) != (int(image["width"]), int(image["height"])):
        return f"decodes to {width} x {height} where the file says {image['width']} x {image['height']}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
