"""What a conversion stores of one image, taken through its threads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import PAGE_BYTES
from data_tools.convert.image_pool import ImagePool
from data_tools.convert.transcode import BadImageError, StorageOptions
from data_tools.sources.reader import File

OPTIONS = StorageOptions(
    caps=(160, 320, None),
    side="shorter",
    filter="area",
    quality=90,
    seekable=True,
    keep=False,
    raw_share=0.0,
    seed=0,
    page_bytes=(PAGE_BYTES, PAGE_BYTES, PAGE_BYTES),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What goes into one beton for one image. `kept`: these are the file's own bytes."""

    mode: int
    width: int
    height: int
    data: bytes
    checksum: int
    kept: bool

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Of a sample that is stored as pixels."""
        return np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 3)


def store(data: bytes, key: str, storage: StorageOptions) -> list[Stored]:
    """What is stored of one image, by output. Raises BadImageError."""
    with tempfile.TemporaryDirectory() as folder, ImagePool(1) as pool:
        path = Path(folder) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        (chunk,) = pool.run([File("folder", str(path.parent))], storage, iter([[(0, 0, 0, len(data), key)]]))
    if chunk.bad:
        raise BadImageError(chunk.bad[0][1])
    return [
        Stored(*map(int, record[["mode", "width", "height"]]), blob.tobytes(), int(record["checksum"]), record["kept"])
        for record, blob in zip(chunk.records[0], chunk.blobs, strict=True)
    ]
