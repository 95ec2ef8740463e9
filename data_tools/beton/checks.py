"""Checks of a beton's tables, manifest and checksums; nothing here reads a picture."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import RAW, SAMPLE, SAMPLES_START, Array, BetonError, Layout, read_layout
from data_tools.beton.manifest import Manifest, checksums_path
from data_tools.common.errors import MissingFileError

AGAIN = "copy it again, or remove the beton and run write_datasets.py again"


def structure_faults(path: Path, manifest: Manifest | None = None) -> list[str]:
    """A line for every structural fault. Reads the tables only, never the pages."""
    try:
        layout = read_layout(path)
    except (OSError, BetonError) as error:
        return [str(error)]
    faults = [*_table_faults(layout), *_sample_faults(layout)]
    if manifest is not None:
        faults += _manifest_faults(layout, manifest)
    return [f"{path}: {fault}" for fault in faults]


def read_checksums(layout: Layout, manifest: Manifest) -> NDArray[np.uint64]:
    """The XXH64 of every sample, from the file beside the beton, after comparing both with the manifest's digests.

    MissingFileError without such a file, BetonError if a digest differs.
    """
    sidecar = checksums_path(layout.path)
    if not sidecar.exists():
        raise MissingFileError("no checksums beside the beton", where=sidecar, remedy=AGAIN)
    content = sidecar.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.checksums_digest or len(content) != 8 * manifest.images:
        raise BetonError("not the checksums that the manifest names", where=sidecar, remedy=AGAIN)
    if layout.digest(content) != manifest.digest:
        raise BetonError("not the file that its manifest describes", where=layout.path, remedy=AGAIN)
    return np.frombuffer(content, "<u8")


def _table_faults(layout: Layout) -> list[str]:
    alloc, page = layout.alloc, layout.page_bytes
    table = int(layout.header["alloc_table_ptr"])
    first = SAMPLES_START + len(layout.samples) * SAMPLE.itemsize
    ids, start, size = alloc["sample_id"], alloc["ptr"].astype(np.uint64), alloc["size"].astype(np.uint64)
    times = np.bincount(ids.astype(np.int64), minlength=len(layout.samples))
    faults = listed("does not appear exactly once in the alloc table", np.flatnonzero(times != 1))
    # A pointer near 2^64 would wrap around in start + size: check bounds first, then sums of the rest.
    outside = (start < first) | (start >= table) | (size == 0) | (size > table)
    faults += listed("has its bytes outside of the data region", ids[outside])
    ids, start, size = ids[~outside], start[~outside], size[~outside]
    end = start + size
    faults += listed("has its bytes outside of the data region", ids[end > table])
    faults += listed("lies across a page boundary", ids[start // page != (end - 1) // page])
    order = np.argsort(start, kind="stable")
    overlap = end[order][:-1] > start[order][1:]
    faults += listed("overlaps the sample before it", ids[order][1:][overlap])
    if table % page:
        faults.append(f"the alloc table at {table} does not follow a whole page of {page} bytes")
    return faults


def _sample_faults(layout: Layout) -> list[str]:
    image, label = layout.samples["f0"], layout.samples["f1"]
    ids = np.arange(len(image))
    pointers = np.zeros(len(image), np.uint64)
    pointers[layout.alloc["sample_id"]] = layout.alloc["ptr"]
    sizes = layout.sizes()
    pixels = image["width"].astype(np.uint64) * image["height"].astype(np.uint64) * np.uint64(3)
    return [
        *listed("points to other bytes than its alloc entry", ids[pointers != image["data_ptr"]]),
        *listed("has a side of 0", ids[(image["width"] == 0) | (image["height"] == 0)]),
        *listed("has an unknown mode", ids[image["mode"] > RAW]),
        *listed("is raw but not width x height x 3 bytes", ids[(image["mode"] == RAW) & (sizes != pixels)]),
        *listed("has a negative label", ids[label < 0]),
    ]


def _manifest_faults(layout: Layout, manifest: Manifest) -> list[str]:
    images, classes = len(layout.samples), len(manifest.classes)
    faults = [] if manifest.images == images else [f"the manifest says {manifest.images} images, the file has {images}"]
    beyond = np.flatnonzero(layout.samples["f1"] >= classes)
    return faults + listed(f"has a label beyond the manifest's {classes} classes", beyond)


def listed(fault: str, ids: Array, limit: int = 10) -> list[str]:
    """A line for each of these samples; of many, for the first ``limit``, and how many more there are."""
    lines = [f"sample {sample} {fault}" for sample in ids[:limit]]
    return [*lines, f"... and {len(ids) - limit} more samples: {fault}"] if len(ids) > limit else lines
