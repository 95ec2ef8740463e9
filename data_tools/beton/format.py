"""The .beton format (FFCV, version 2): its dtypes, where each sample goes, and the checks on reading.

    header        24 bytes: HEADER
    fields        2 x 1041 bytes: FIELD (`image`, an RGBImageField; `label`, an IntField)
    metadata      images x 24 bytes: SAMPLE
    zeros         up to the first multiple of page_size
    pages         whole pages; every sample's bytes lie within one page, unused room is zero
    alloc table   images x 24 bytes: ALLOC, up to the end of the file

FFCV addresses a page as `pointer >> log2(page_size)`, so pages start at multiples of their size in the file, and
a loader that caches pages itself (`os_cache=False`) reads whole ones: the last page is padded to full size.
FFCV takes everything after `alloc_table_ptr` for the table, so nothing may follow it.

Files that stock FFCV wrote are read, too: their fields have any names, and the label may come first.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.common.errors import UserError

Array = NDArray[Any]

VERSION = 2
AGAIN = "copy it again, or write it again"
MIN_PAGE_BYTES = 1 << 21  # FFCV's own bounds
MAX_PAGE_BYTES = 1 << 31  # a power of two that fits the header's uint32
PAGE_BYTES = 1 << 23  # what FFCV's DatasetWriter uses
JPG, RAW = 0, 1
RGB_IMAGE, INT = 2, 1  # FFCV's type ids
MOST_FIELDS = 16  # that are named
FIELD_NAMES = ("image", "label")
FIELD_TYPES = tuple(f"{name}Field" for name in ("Float", "Int", "RGBImage", "Bytes", "NDArray", "JSON", "TorchTensor"))

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", (16,)), ("arguments", "u1", (1024,))])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype({"names": ["f0", "f1"], "formats": [IMAGE, "<i8"], "offsets": [0, 16], "itemsize": 24})
LABEL_FIRST = np.dtype({"names": ["f0", "f1"], "formats": [IMAGE, "<i8"], "offsets": [8, 0], "itemsize": 24})
ALLOC = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
SAMPLES_START = HEADER.itemsize + 2 * FIELD.itemsize


class BetonError(UserError, ValueError):
    """A file that is not a beton of this project, or is damaged."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A beton's header and both tables, as they are in the file. fields: the names of image and label. samples: `f0` is
    the image, `f1` the label, wherever they lie."""

    path: Path
    file_bytes: int
    header: Any
    fields: tuple[str, str]
    samples: Array
    alloc: Array

    @property
    def page_bytes(self) -> int:
        return int(self.header["page_size"])

    def sizes(self) -> NDArray[np.uint64]:
        """The stored bytes of every sample, in sample order."""
        sizes = np.zeros(len(self.samples), np.uint64)
        sizes[self.alloc["sample_id"]] = self.alloc["size"]
        return sizes

    def digest(self, checksums: bytes) -> str:
        """`beton_digest` of the file with these checksums."""
        with self.path.open("rb") as file:
            head = file.read(SAMPLES_START + self.samples.nbytes)
        return beton_digest(head, self.alloc.tobytes(), checksums)


# ---------------------------------------------------------------------------------------------- writing
def data_start(images: int, page_bytes: int) -> int:
    """Offset of the first page of a file with ``images`` samples."""
    table_end = SAMPLES_START + images * SAMPLE.itemsize
    return -(-table_end // page_bytes) * page_bytes


def assign_offsets(sizes: Sequence[int], position: int, page_bytes: int) -> tuple[list[int], int]:
    """Offsets of samples of these sizes from `position` on, none across a page boundary; and the end of the last."""
    pointers = []
    for size in sizes:
        left = page_bytes - position % page_bytes
        if size > left:
            if size > page_bytes:
                raise ValueError(f"{size} bytes do not fit a page of {page_bytes}")
            position += left
        pointers.append(position)
        position += size
    return pointers, position


def pack_head(images: int, page_bytes: int, alloc_table_ptr: int) -> bytes:
    """Header and field descriptors."""
    header = np.zeros(1, HEADER)
    header[0] = (VERSION, len(FIELD_NAMES), page_bytes, images, alloc_table_ptr)
    fields = np.zeros(len(FIELD_NAMES), FIELD)
    for field, name, type_id in zip(fields, FIELD_NAMES, (RGB_IMAGE, INT), strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    return header.tobytes() + fields.tobytes()


def beton_digest(head_and_samples: bytes | memoryview, alloc: bytes | memoryview, checksums: bytes | memoryview) -> str:
    """The digest of a beton: SHA-256 over header, fields and metadata as in the file, the alloc table as in the
    file, and the sidecar (XXH64 of every sample's stored bytes, little-endian, in sample order).

    It covers everything but the zeros between samples, and can be computed without reading the pages.
    """
    total = hashlib.sha256()
    for part in (head_and_samples, alloc, checksums):
        total.update(part)
    return total.hexdigest()


# ---------------------------------------------------------------------------------------------- reading
def read_layout(path: Path) -> Layout:
    """Header, metadata and alloc table, every length checked before it is trusted. Raises BetonError."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < SAMPLES_START:
            raise BetonError(f"{size} bytes are too few for a beton", where=path, remedy=AGAIN)
        header = np.fromfile(file, HEADER, 1)[0]
        names, sample = _check_fields(path, header, np.fromfile(file, FIELD, min(header["num_fields"], MOST_FIELDS)))
        _check_header(path, header, size)
        images, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
        samples = np.frombuffer(file.read(images * SAMPLE.itemsize), sample)
        file.seek(table)
        alloc = np.frombuffer(file.read(images * ALLOC.itemsize), ALLOC)
    if alloc.size and int(alloc["sample_id"].max()) >= images:
        raise BetonError("the alloc table names a sample that the file does not have", where=path)
    return Layout(path, size, header, names, samples, alloc)


def _check_fields(path: Path, header: Any, fields: Array) -> tuple[tuple[str, str], np.dtype[Any]]:
    """The names of image and label, and the dtype of a sample."""
    if header["version"] != VERSION:
        raise BetonError(f"not a beton of version {VERSION}", where=path)
    names = [field["name"].tobytes().partition(b"\0")[0].decode("latin1") for field in fields]
    types = [int(field["type_id"]) for field in fields]
    if sorted(types) != [INT, RGB_IMAGE] or not "".join(names).isascii() or names[0] == names[1]:
        kinds = [FIELD_TYPES[each] if each < len(FIELD_TYPES) else f"type {each}" for each in types]
        found = ", ".join(f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True))
        wanted = "one RGBImageField and one IntField with different names in ASCII"
        raise BetonError(f"its fields are {found or 'none'}, not {wanted}", where=path)
    if types[0] == INT:
        return (names[1], names[0]), LABEL_FIRST
    return (names[0], names[1]), SAMPLE


def _check_header(path: Path, header: Any, size: int) -> None:
    images, table, page = (int(header[key]) for key in ("num_samples", "alloc_table_ptr", "page_size"))
    if not MIN_PAGE_BYTES <= page <= MAX_PAGE_BYTES or page & (page - 1):
        raise BetonError(f"page size {page} is not a power of two from 2 MiB to 2 GiB", where=path)
    if table < SAMPLES_START + images * SAMPLE.itemsize or table + images * ALLOC.itemsize != size:
        raise BetonError(
            f"{size} bytes do not hold {images} samples and an alloc table at {table}: the file is "
            "truncated, or was never finished",
            where=path,
            remedy=AGAIN,
        )
