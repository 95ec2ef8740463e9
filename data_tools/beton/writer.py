"""Writes a beton: samples one after another into NAME.beton.partial, the tables at the end."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import ALLOC, assign_offsets, beton_digest, data_start, pack_head
from data_tools.beton.manifest import Manifest, checksums_path, manifest_path, write_manifest
from data_tools.common.files import sync_folder, write_atomically
from data_tools.native import codec

Array = NDArray[Any]


def partial_path(beton: Path) -> Path:
    """Where a beton is written until it is complete."""
    return beton.with_name(f"{beton.name}.partial")


class BetonWriter:
    def __init__(self, path: Path, images: int, page_bytes: int) -> None:
        self.path, self.page_bytes = path, page_bytes
        self.partial = partial_path(path)
        self.start = self.position = data_start(images, page_bytes)
        self.pointers = np.zeros(images, np.uint64)
        self.handle = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, first: int, sizes: list[int], data: memoryview | None) -> None:
        """Append samples; `data` is their bytes, None if those are in the file already."""
        pointers, self.position = assign_offsets(sizes, self.position, self.page_bytes)
        self.pointers[first : first + len(sizes)] = pointers
        if data is None:
            return
        begin = end = 0
        for pointer, size, following in zip(pointers, sizes, [*pointers[1:], None], strict=True):
            end += size
            if following != pointer + size:  # the end of a page, or of the data
                _write_all(self.handle, data[begin:end], pointer + size - (end - begin))
                begin = end

    def truncate(self, done: int, end: int) -> None:
        """Drop everything after the first `done` images, including what an interrupted `finish` wrote."""
        self.pointers[done:] = 0
        self.position = end
        os.ftruncate(self.handle, end)

    def matches(self, pointer: int, size: int, checksum: int) -> bool:
        return codec.checksum(os.pread(self.handle, size, pointer)) == checksum

    def finish(self, samples: Array, sizes: Array, checksums: bytes) -> str:
        """Write the tables around the samples and sync; returns the digest."""
        images = len(samples)
        alloc = np.zeros(images, ALLOC)
        alloc["sample_id"], alloc["ptr"], alloc["size"] = np.arange(images), samples["f0"]["data_ptr"], sizes
        table = -(-self.position // self.page_bytes) * self.page_bytes
        head = pack_head(images, self.page_bytes, table) + samples.tobytes()
        os.ftruncate(self.handle, self.position)
        os.ftruncate(self.handle, table)  # the rest of the last page, as zeros
        _write_all(self.handle, memoryview(alloc.tobytes()), table)
        _write_all(self.handle, memoryview(head), 0)
        os.fsync(self.handle)
        return beton_digest(head, alloc.tobytes(), checksums)

    def rename(self, manifest: Manifest, checksums: bytes) -> None:
        """Give the finished beton its final name, after writing the files that belong to it."""
        write_atomically(checksums_path(self.path), checksums)
        write_manifest(manifest, manifest_path(self.path))
        self.partial.rename(self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        os.close(self.handle)


def _write_all(handle: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(handle, data, at)
        data, at = data[written:], at + written
