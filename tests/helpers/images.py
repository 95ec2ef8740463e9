"""Pictures, archives and conversions for tests; all made on the fly, none from outside."""

from __future__ import annotations

import base64
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.convert.config import Data, Write, WriteSpec
from data_tools.sources.listing import TRUTH as ILSVRC_TRUTH


def photo(seed: int, width: int = 500, height: int = 375) -> np.ndarray:
    """(height, width, 3) uint8 with the statistics of a photograph where it matters: smooth areas, edges, grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    for _ in range(4):
        left, top = rng.integers(0, max(width - 8, 1)), rng.integers(0, max(height - 8, 1))
        pixels[top : top + height // 4, left : left + width // 5] += rng.integers(-80, 80, 3, np.int16)
    pixels += rng.integers(-6, 7, pixels.shape, np.int16)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 92, **options: object) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", quality=quality, **options)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def oddities() -> dict[str, bytes]:
    """The files that ImageNet has and a naive converter trips over, by what is odd about them."""
    rgb = Image.fromarray(photo(1, 200, 150))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    return {
        "grey": encoded(rgb.convert("L"), "JPEG", quality=90),
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG", quality=90),
        "png": encoded(rgb, "PNG"),
        "palette": encoded(rgb.convert("P"), "PNG"),
        "alpha": encoded(rgb.convert("RGBA"), "PNG"),
        "progressive": encoded(rgb, "JPEG", quality=90, progressive=True),
        "444": encoded(rgb, "JPEG", quality=95, subsampling=0),
        "exif": encoded(rgb, "JPEG", quality=90, exif=exif),
        "thin": encoded(Image.fromarray(photo(2, 700, 1)), "JPEG", quality=90),
        "tall": encoded(Image.fromarray(photo(3, 3, 900)), "JPEG", quality=90),
        "dot": encoded(Image.fromarray(photo(4, 1, 1)), "JPEG", quality=90),
    }


def damaged_images() -> dict[str, bytes]:
    """Files that must not go into a beton, by what is wrong with them."""
    whole = jpeg(photo(5, 400, 300))
    png = encoded(Image.fromarray(photo(6, 200, 150)), "PNG")
    middle = len(whole) // 2
    cmyk = encoded(Image.fromarray(photo(7, 300, 200)).convert("CMYK"), "JPEG", quality=90)
    return {
        "empty": b"",
        "text": b"this is no image, whatever its name says\n" * 20,
        "truncated": whole[: len(whole) // 2],
        "truncated late": whole[:-200],
        "header only": whole[:200],
        "cut cmyk": cmyk[: len(cmyk) // 2],
        "stray marker in cmyk": cmyk[: len(cmyk) // 2] + b"\xff\xd9" + cmyk[len(cmyk) // 2 + 2 :],
        "stray marker": whole[:middle] + b"\xff\xd9" + whole[middle + 2 :],
        "truncated png": png[: len(png) // 2],
    }


def member(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """An uncompressed tar of these files, in this order."""
    path.write_bytes(inner_tar(files))
    return path


def inner_tar(files: dict[str, bytes]) -> bytes:
    """The bytes of an uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            tar.addfile(member(name, data), io.BytesIO(data))
    return out.getvalue()


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def sorted_files(
    classes: int = 4,
    per_class: int = 10,
    val_per_class: int = 3,
    make: Callable[[int], bytes] | None = None,
    prefix: str = "raw-data",
    val: str = "validation",
) -> dict[str, bytes]:
    """The members of a sorted tar, in an order that is not the sorted one."""
    files = {}
    for at in range(classes * (per_class + val_per_class)):
        number, label = divmod(at, classes)
        split = "train" if number < per_class else val
        wnid = f"n{1440764 + 17 * label:08d}"
        files[f"{prefix}/{split}/{wnid}/{wnid}_{number * 7 % 101}.JPEG"] = (make or varied_jpeg)(at)
    return files


def varied_jpeg(seed: int) -> bytes:
    """A photograph in one of six sizes and many qualities."""
    width, height = [(500, 375), (375, 500), (333, 500), (400, 400), (640, 350), (180, 140)][seed % 6]
    return jpeg(photo(seed, width, height), quality=80 + seed % 16, subsampling=seed % 3)


def make_sorted_tar(path: Path, classes: int = 4, per_class: int = 10, val_per_class: int = 3, **more: object) -> Path:
    """A sorted tar of photograph-like pictures."""
    return write_tar(path, sorted_files(classes, per_class, val_per_class, **more))


def spec_for(source: Path | tuple[Path, ...], out: Path, **options: object) -> WriteSpec:
    """A conversion with two workers and the defaults of the command line; ``options`` of either section."""
    data = {name: options.pop(name) for name in Data.model_fields if name in options}
    sources = source if isinstance(source, tuple) else (source,)
    return WriteSpec(data=Data(source=sources, out=out, **data), write=Write(**{"workers": 2} | options))


# ---------------------------------------------------------------------------------------------- ILSVRC
WNIDS = ["n02119789", "n02100735", "n02110185", "n00001740", "n02096294"]  # in the order of META_MAT
# scipy.io.savemat of five synsets, compressed; the first three ILSVRC2012_IDs are uint8, the others double.
META_MAT = base64.b64decode(
    "TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IE1vbiBOb3YgMjMgMDg6Mzc6MTggMjAyNgAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAAZQEAAHic7VTRaoMwFI3VtZNC"
    "aWEf4AfsIdpu6puwPawwxtigexRZM5XZOIxl2x/sA/bBTWzcUlEc6iiFXrjEe/Cc5F4OdwQAOB0C0GcnzR7Yxgmv2SnxHNAkn5ig"
    "lFBcAROOf9Gc3z4uHq4MqBvu/JoJPN1tz594j5MlEQE/iskOgNcr9zkIo2WCcAbsFLkGRqkboNAPUk5JEy/EbrjyfETAiIIQ/Paj"
    "FvqRhARZv1L2zXiOwFNKeKrAG/MaQ0PXbdOyOc50bmp0JgUdVr+GqfYSf5xri3X0hogGBT2rRm9Q0GO1p23HW+T3a+ahcjyP4jyL"
    "/DxEftm7m9zbmH//7TTxQQ+08wGE5vRCeH8XPtAr5nH0wf/5QAYt9wHUra59YFTM4+iDv/ug+f1jp7kfaOjmTNznXfhhWjGXffhB"
    "5A9L+LLAV/i/bNvKJfzD8sVZC18Y0L407JnQRxe+EPX27YtD3BMbOwNw9w=="
)


def devkit(path: Path, truth: list[int], synsets: bytes = META_MAT) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (
            ("ILSVRC2012_devkit_t12/readme.txt", b"read me"),
            ("ILSVRC2012_devkit_t12/data/meta.mat", synsets),
            (f"ILSVRC2012_devkit_t12/data/{ILSVRC_TRUTH}", "".join(f"{each}\n" for each in truth).encode()),
        ):
            tar.addfile(member(name, data), io.BytesIO(data))
    return path
