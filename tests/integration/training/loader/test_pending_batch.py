"""The native threads: any crop of any sample equals that part of the whole picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import native_images
from helpers.images import encoded, jpeg, photo
from PIL import Image

from data_tools.native import codec
from data_tools.native.library import CROP, TASK, NativePool
from training.loader.ffcv_operations import PendingBatch


def load(
    folder: Path, samples: Sequence[bytes], sizes: Sequence[tuple[int, int]], crops: np.ndarray, out: tuple[int, int]
) -> np.ndarray:
    """Crops (as CROP) of stored samples of (height, width), one each, through the threads."""
    tasks = np.zeros(len(samples), TASK)
    (folder / "samples").write_bytes(b"".join(samples))
    tasks["size"] = [len(sample) for sample in samples]
    tasks["at"] = np.cumsum(tasks["size"]) - tasks["size"]
    tasks["image_height"], tasks["image_width"] = np.array(sizes).T
    tasks["crop"] = crops
    file = os.open(folder / "samples", os.O_RDONLY)
    beton = SimpleNamespace(file=file, checksums=False, tasks=lambda samples, crops: tasks)
    pool = NativePool(2)
    try:
        images = torch.empty(len(samples), *out, 3, dtype=torch.uint8)
        pending = PendingBatch(beton, np.arange(len(samples)), crops, images)
        pool.submit(pending)
        while not pool.finished(pending, 100):
            pass
        if pending.failure is not None:
            raise ValueError("{}: {}".format(*pending.failure))
        return images.numpy()
    finally:
        pool.close()
        os.close(file)


def any_crops(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    crops = np.zeros(count, CROP)
    crops["height"], crops["width"] = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    crops["top"] = rng.integers(0, height - crops["height"] + 1)
    crops["left"] = rng.integers(0, width - crops["width"] + 1)
    crops["flip"] = rng.integers(0, 2, count)
    return crops


def cropped(pixels: np.ndarray, crop: np.void, height: int, width: int) -> np.ndarray:
    top, left, rows, columns, flip = crop.tolist()
    resized = native_images.resize(pixels[top : top + rows, left : left + columns], height, width)
    return resized[:, ::-1] if flip else resized


SIZES = [(1, 1), (7, 40), (33, 16), (64, 64), (97, 130), (160, 213)]


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_part_of_a_jpeg_equals_that_part_of_the_whole(tmp_path: Path, subsampling: str) -> None:
    """Region-of-interest decoding, and jumping between restart markers, against a full decode and then the crop."""
    for height, width in SIZES:
        rgb = photo(height, width, height)
        crops = any_crops(60, height, width)
        encoded = [
            native_images.encode(rgb, quality=90, subsampling=subsampling, seekable=each) for each in (False, True)
        ]
        raw = codec.decode(encoded[0])
        parts = [load(tmp_path, [data.tobytes()] * 60, [(height, width)] * 60, crops, (32, 24)) for data in encoded]
        for crop, plain, seekable in zip(crops, *parts, strict=True):
            np.testing.assert_array_equal(plain, cropped(raw, crop, 32, 24))
            np.testing.assert_array_equal(seekable, plain)


def other_jpegs() -> dict[str, bytes]:
    """JPEGs as other programs write them."""
    rgb = photo(5, 213, 160)
    return {
        "progressive": jpeg(rgb, 85, progressive=True),
        "444": jpeg(rgb, 85, subsampling=0),
        "restart markers": jpeg(rgb, 85, restart_marker_blocks=3),
        "grey with restart markers": encoded(
            Image.fromarray(rgb).convert("L"), "JPEG", quality=90, restart_marker_blocks=1
        ),
    }


@pytest.mark.parametrize("kind", other_jpegs())
def test_part_of_a_jpeg_of_another_program_equals_that_part_of_the_whole(tmp_path: Path, kind: str) -> None:
    data = other_jpegs()[kind]
    assert (codec.probe(data).restart_interval > 0) == kind.endswith("restart markers")
    raw, crops = codec.decode(data), any_crops(40, 160, 213)
    for crop, part in zip(crops, load(tmp_path, [data] * 40, [(160, 213)] * 40, crops, (64, 64)), strict=True):
        np.testing.assert_array_equal(part, cropped(raw, crop, 64, 64))


def test_damage_between_restart_markers_is_an_error(tmp_path: Path) -> None:
    data = native_images.encode(photo(6, 160, 128), quality=90, seekable=True).tobytes()
    crop = np.array([(0, 0, 128, 160, 0)], CROP)
    markers = [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    assert len(markers) == 79
    without = data[: markers[9]] + data[markers[9] + 2 :]
    misnumbered = data[: markers[9] + 1] + b"\xd5" + data[markers[9] + 2 :]
    emptied = data[: markers[9] + 2] + data[markers[10] :]
    for damaged in (without, misnumbered, emptied, data[: markers[40]]):
        with pytest.raises(ValueError, match=r"^0: \w"):
            load(tmp_path, [damaged], [(128, 160)], crop, (64, 64))
