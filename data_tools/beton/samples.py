"""Reads every sample of a beton once, in the order of the file, and checks it as a loader would."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import RAW, SAMPLES_START, Array, Layout
from data_tools.native import codec

CHUNK_BYTES = 1 << 23  # of a file that are in memory for each thread; more if a single sample is larger
AHEAD = 2  # chunks for each thread, so that it never waits for the next


@dataclass(frozen=True, slots=True)
class CheckedChunk:
    """Samples that follow each other in the file: their numbers, the XXH64 of each, and a line for every fault."""

    samples: Array
    checksums: NDArray[np.uint64]
    faults: list[str]


def check_samples(
    layout: Layout,
    workers: int,
    *,
    checksums: NDArray[np.uint64] | None = None,
    classes: Sequence[str] = (),
    done: int = 0,
) -> Iterator[CheckedChunk]:
    """Compare the samples with their ``checksums``, if given, decode every JPEG whole, and see that all between the
    tables and the samples, and between these, is zero. ``done`` of the samples, in the order of the file, are left out.
    `structure_faults` must have found nothing.
    """
    handle = os.open(layout.path, os.O_RDONLY | os.O_CLOEXEC)
    pending = deque[Future[CheckedChunk]]()
    try:
        with ThreadPoolExecutor(workers) as pool:  # the native code releases the GIL
            for start, stop, entries in _chunks(layout, done):
                pending.append(pool.submit(_check, handle, layout, start, stop, entries, checksums, classes))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        os.close(handle)


def _chunks(layout: Layout, done: int) -> Iterator[tuple[int, int, Array]]:
    """Where each chunk begins and ends in the file, and the alloc entries in it. A page has one chunk or several."""
    alloc = layout.alloc[np.argsort(layout.alloc["ptr"])]
    at, page = alloc["ptr"].astype(np.int64), layout.page_bytes
    first = np.flatnonzero(np.diff(at // min(page, CHUNK_BYTES), prepend=-1))
    begins_page = np.diff(at[first] // page, prepend=-1, append=-1) != 0
    start = np.where(begins_page[:-1], at[first] // page * page, at[first])
    start[:1] = SAMPLES_START + layout.samples.nbytes
    stop = np.where(begins_page[1:], (at[first] // page + 1) * page, np.append(start[1:], 0))
    for begin, end, entries in zip(start.tolist(), stop.tolist(), np.split(alloc, first[1:]), strict=False):
        done -= len(entries)  # strict=False: an empty array splits into one
        if done < 0:
            yield begin, end, entries


def _check(
    handle: int,
    layout: Layout,
    start: int,
    stop: int,
    entries: Array,
    expected: NDArray[np.uint64] | None,
    classes: Sequence[str],
) -> CheckedChunk:
    checksums, faults, end = np.zeros(len(entries), np.uint64), [], start
    first, last = int(entries["ptr"][0]), int(entries["ptr"][-1] + entries["size"][-1])
    content = os.pread(handle, last - first, first)
    images = layout.samples["f0"][entries["sample_id"]].tolist()
    for at, ((sample, pointer, size), image) in enumerate(zip(entries.tolist(), images, strict=True)):
        if not _is_zero(handle, end, pointer):
            faults.append(f"{layout.path}: the bytes before sample {sample} are not zero")
        end = pointer + size
        data = content[pointer - first : end - first]
        checksums[at] = codec.checksum(data)
        if expected is not None and checksums[at] != expected[sample]:
            fault = "its bytes do not match their checksum"
        else:
            fault = _picture_fault(data, *image[:3])
        if fault:
            name = f" ({classes[int(layout.samples['f1'][sample])]})" if classes else ""
            faults.append(f"{layout.path}: sample {sample}{name}: {fault}")
    if not _is_zero(handle, end, stop):
        faults.append(f"{layout.path}: the bytes after sample {entries['sample_id'][-1]} are not zero")
    return CheckedChunk(entries["sample_id"], checksums, faults)


def _is_zero(handle: int, start: int, stop: int) -> bool:
    """Whether these bytes of the file, which may be a page of 2 GiB, are zero."""
    parts = ((at, min(CHUNK_BYTES, stop - at)) for at in range(start, stop, CHUNK_BYTES))
    return not any(os.pread(handle, size, at).strip(b"\0") for at, size in parts)


def _picture_fault(data: bytes, mode: int, width: int, height: int) -> str:
    """What is wrong with a sample; empty if nothing is."""
    if mode == RAW:
        return ""
    try:
        info = codec.probe(data)
        if (info.width, info.height) != (width, height):
            return f"decodes to {info.width} x {info.height} where the file says {width} x {height}"
        codec.decode(data)
    except codec.NativeError as error:
        return f"JPEG: {error}"
    return ""
