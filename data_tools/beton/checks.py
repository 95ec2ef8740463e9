"""Whether a beton is sound: its tables, its manifest, its checksums; what follows trusts them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton import format as layout
from data_tools.beton import manifest
from data_tools.beton.format import RAW, SAMPLE, SAMPLES_START, Array, Layout, LayoutError, read
from data_tools.beton.manifest import Manifest


def check(path: Path, manifest: Any = None) -> list[str]:
    """Every structural fault, one line each; [] when sound. Reads the tables only, and never the pages."""
    try:
        layout = read(path)
    except (OSError, LayoutError) as error:
        return [str(error)]
    faults = [*_table_faults(layout), *_sample_faults(layout)]
    if manifest is not None:
        faults += _manifest_faults(layout, manifest)
    return [f"{path}: {fault}" for fault in faults]


def _table_faults(layout: Layout) -> list[str]:
    alloc, page = layout.alloc, layout.page_bytes
    table = int(layout.header["alloc_table_ptr"])
    first = SAMPLES_START + len(layout.samples) * SAMPLE.itemsize
    ids, start, size = alloc["sample_id"], alloc["ptr"].astype(np.uint64), alloc["size"].astype(np.uint64)
    faults = _listed("is not exactly once in the alloc table", _not_once(ids, len(layout.samples)))
    # A pointer near 2^64 would wrap around in start + size: bounds first, sums on what is left.
    wild = (start < first) | (start >= table) | (size == 0) | (size > table)
    faults += _listed("has its bytes outside of the data region", ids[wild])
    ids, start, size = ids[~wild], start[~wild], size[~wild]
    end = start + size
    faults += _listed("has its bytes outside of the data region", ids[end > table])
    faults += _listed("lies across a page boundary", ids[start // page != (end - 1) // page])
    order = np.argsort(start, kind="stable")
    overlap = end[order][:-1] > start[order][1:]
    faults += _listed("overlaps the sample before it", ids[order][1:][overlap])
    if table % page:
        faults.append(f"the alloc table at {table} does not follow a whole page of {page} bytes")
    return faults


def _not_once(ids: Array, images: int) -> Array:
    return np.flatnonzero(np.bincount(ids.astype(np.int64), minlength=images)[:images] != 1)


def _sample_faults(layout: Layout) -> list[str]:
    image, label = layout.samples["f0"], layout.samples["f1"]
    every = np.arange(len(image))
    pointers = np.zeros(len(image), np.uint64)
    pointers[layout.alloc["sample_id"]] = layout.alloc["ptr"]
    sizes = layout.sizes()
    pixels = image["width"].astype(np.uint64) * image["height"].astype(np.uint64) * np.uint64(3)
    return [
        *_listed("points to other bytes than its alloc entry", every[pointers != image["data_ptr"]]),
        *_listed("has a side of 0", every[(image["width"] == 0) | (image["height"] == 0)]),
        *_listed("has an unknown mode", every[image["mode"] > RAW]),
        *_listed("is raw but not width x height x 3 bytes", every[(image["mode"] == RAW) & (sizes != pixels)]),
        *_listed("has a negative label", every[label < 0]),
    ]


def _manifest_faults(layout: Layout, manifest: Any) -> list[str]:
    images, classes = len(layout.samples), len(manifest.classes)
    faults = []
    if manifest.images != images:
        faults.append(f"the manifest says {manifest.images} images, the file has {images}")
    if manifest.bytes != layout.file_bytes:
        faults.append(f"the manifest says {manifest.bytes} bytes, the file has {layout.file_bytes}")
    beyond = np.flatnonzero(layout.samples["f1"] >= classes)
    return faults + _listed(f"has a label beyond the manifest's {classes} classes", beyond)


def _listed(fault: str, ids: Array, most: int = 10) -> list[str]:
    lines = [f"sample {each} {fault}" for each in ids[:most]]
    return [*lines, f"... and {len(ids) - most} more samples: {fault}"] if len(ids) > most else lines


def _checksums(path: Path, record: Manifest) -> NDArray[np.uint64]:
    sidecar = manifest.checksums_of(path)
    content = sidecar.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.checksums_digest or len(content) != 8 * record.images:
        raise ValueError(f"{sidecar.name} is not the one that the manifest names")
    return np.frombuffer(content, "<u8")


def _digest_faults(found: Layout, record: Manifest, checksums: NDArray[np.uint64]) -> Iterator[str]:
    with found.path.open("rb") as file:
        head = file.read(layout.SAMPLES_START + found.samples.nbytes)
    if layout.digest(head, found.alloc.tobytes(), checksums.tobytes()) != record.digest:
        yield f"{found.path}: its header and tables have not the digest that the manifest gives"
