"""Threads that read, decode, resize and encode images; results come back in order.

Sound JPEGs never meet Python: a native thread takes each from the file's bytes to those of every size. What libjpeg
cannot read (PNG, CMYK, damaged files) is decoded by PIL in a Python thread, and goes back to the same native code.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.convert.transcode import BadImageError, StorageOptions, native_options, store_pixels, wants_raw
from data_tools.native import library as native
from data_tools.native.library import library
from data_tools.sources.reader import File, Reader

Item = tuple[int, int, int, int, str]  # position, file, offset, length, class/name
AHEAD = 2  # chunks for each thread, so that it never waits for the next


@dataclass(frozen=True, slots=True)
class ResultChunk:
    """Images that are stored in memory.

    records: (images, outputs), all zero for an image that is bad. blobs: by output, the bytes of its samples one
    after another. bad: (position, reason).
    """

    records: NDArray[Any]
    blobs: list[NDArray[np.uint8]]
    bad: list[tuple[int, str]]


class ImagePool:
    """`threads` native threads and as many of Python's, which end with the `with` block."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._native = native.NativePool(threads)
        self._python = ThreadPoolExecutor(threads, thread_name_prefix="convert")

    def __enter__(self) -> ImagePool:
        return self

    def __exit__(self, *_: object) -> None:
        self._python.shutdown(cancel_futures=True)  # waits for the images at hand
        self._native.close()

    def run(
        self, files: Sequence[File], storage: StorageOptions, chunks: Iterator[list[Item]]
    ) -> Iterator[ResultChunk]:
        """Results in the order of the chunks. Raises OSError and UserError."""
        options, pending = native_options(storage), deque[Future[ResultChunk]]()
        with closing(Reader(files)) as reader:
            for items in chunks:
                sources, held = _sources(items, files, storage, reader)
                pending.append(self._python.submit(self._convert, items, sources, held, options, reader))
                while len(pending) >= AHEAD * self._threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _convert(
        self,
        items: Sequence[Item],
        sources: NDArray[Any],
        held: list[Any],
        options: native.StoreOptions,
        reader: Reader,
    ) -> ResultChunk:
        """In a thread of Python's: waits for the native ones, then stores what they could not."""
        images, outputs = len(items), options.outputs
        records, stored = np.zeros((images, outputs), native.RECORD), np.zeros(images, np.uint64)
        codes = np.zeros(images, np.int32)
        request = native.ConversionRequest(
            kind=native.CONVERT,
            items=images,
            sources=sources.ctypes.data,
            options=ctypes.addressof(options),
            records=records.ctypes.data,
            stored=stored.ctypes.data,
            codes=codes.ctypes.data,
        )
        bad: list[tuple[int, str]] = []
        try:
            self._native.submit(request)
            while not self._native.finished(request, native.WAIT_MILLISECONDS):
                pass
            for at in np.flatnonzero(codes).tolist():
                records[at] = 0
                position, file, offset, length, key = items[at]
                data = held[at] if isinstance(held[at], bytes) else reader.read(file, offset, length, key)
                try:
                    stored[at] = store_pixels(data, bool(sources["as_pixels"][at]), options, records[at])
                except BadImageError as error:
                    records[at] = 0
                    bad.append((position, str(error)))
            return ResultChunk(records, _gathered(records, stored), bad)
        finally:
            self._native.cancel(request)
            for address in stored.tolist():
                library().native_free(address)


def _sources(
    items: Sequence[Item], files: Sequence[File], storage: StorageOptions, reader: Reader
) -> tuple[NDArray[Any], list[Any]]:
    """Where the bytes of images are, and what that refers to: the bytes themselves, an open archive or a path."""
    sources, held = np.zeros(len(items), native.SOURCE), list[Any]()
    for at, (_, file, offset, length, key) in enumerate(items):
        as_pixels = wants_raw(key, storage)
        kind = files[file].kind
        if kind == "parquet":
            held.append(reader.read(file, offset, length, key))
            start = np.frombuffer(held[at] or b"\0", np.uint8).ctypes.data
            sources[at] = (start, 0, 0, len(held[at]), -1, as_pixels)
        elif kind == "archive":
            held.append(reader.archive(file))
            sources[at] = (0, 0, offset, length, held[at].handle, as_pixels)
        else:
            held.append(ctypes.create_string_buffer(os.fsencode(reader.path(file, key))))
            sources[at] = (0, ctypes.addressof(held[at]), 0, length, -1, as_pixels)
    return sources, held


def _gathered(records: NDArray[Any], stored: NDArray[np.uint64]) -> list[NDArray[np.uint8]]:
    """By output, the bytes of all images one after another."""
    images, outputs = records.shape
    blobs = []
    for output, size in enumerate(records["size"].sum(axis=0, dtype=np.int64).tolist()):
        blob = np.empty(size, np.uint8)
        library().native_gather(stored.ctypes.data, records.ctypes.data, images, outputs, output, blob.ctypes.data)
        blobs.append(blob)
    return blobs
