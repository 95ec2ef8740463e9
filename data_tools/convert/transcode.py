"""One image: the source's bytes in, the bytes to store for every size out. The same input gives the same output.

Pixels are what PIL's `convert("RGB")` makes of the file, EXIF orientation ignored, as torchvision's ImageFolder
has it. A JPEG goes through libjpeg-turbo directly (`native`), everything else through PIL. An image
that is cut short or corrupt is a `BadImageError`, never half a picture.
"""

import ctypes
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.common.file_kinds import picture_kind, unread_picture_kind
from data_tools.common.names import name_bytes
from data_tools.convert import pil_images
from data_tools.native import codec
from data_tools.native.library import ErrorText, StoreOptions, library

Pixels = NDArray[np.uint8]

MAX_PIXELS = 100_000_000  # more is a decompression bomb
MAX_SIDE = 65_500  # libjpeg's limit; the metadata holds sides as uint16
_TOO_LARGE = 7  # base.h: Code


class BadImageError(ValueError):
    """An image that cannot be stored whole; the text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageOptions:
    """How every image is stored.

    caps: one entry an output, None for the pixels as they are. filter: what makes them smaller. seekable: JPEGs made
    for a cap have a restart marker after every MCU, so that crops decode faster. keep: store the file's own bytes where
    an uncapped output is a plain JPEG. raw_share: the share of samples stored as pixels, 0 for none and 1 for all.
    page_bytes: by output, what a sample may take at most.
    """

    caps: tuple[int | None, ...]
    side: Literal["shorter", "longer"]
    filter: Literal["area", "lanczos"]
    quality: int
    seekable: bool
    keep: bool
    raw_share: float
    seed: int
    page_bytes: tuple[int, ...]


def native_options(storage: StorageOptions) -> StoreOptions:
    """`StorageOptions` as the native code takes them."""
    outputs = len(storage.caps)
    return StoreOptions(
        caps=(ctypes.c_int32 * outputs)(*(cap or 0 for cap in storage.caps)),
        page_bytes=(ctypes.c_uint64 * outputs)(*storage.page_bytes),
        most_pixels=MAX_PIXELS,
        outputs=outputs,
        longer=storage.side == "longer",
        lanczos=storage.filter == "lanczos",
        quality=storage.quality,
        seekable=storage.seekable,
        keep=storage.keep,
        most_side=MAX_SIDE,
    )


def store_pixels(data: bytes, as_pixels: bool, options: StoreOptions, records: NDArray[Any]) -> int:
    """Store an image that the native threads have left to PIL; fills its ``records`` (outputs,), and returns the
    address of the bytes of all outputs, for `native_free`. Raises BadImageError."""
    pixels, is_plain = _decoded(data)
    picture = np.ascontiguousarray(pixels)
    stored, error = ctypes.c_void_p(), ErrorText()
    code = library().native_store(
        picture.ctypes.data,
        picture.shape[1],
        picture.shape[0],
        np.frombuffer(data, np.uint8).ctypes.data if is_plain else None,
        len(data),
        as_pixels,
        ctypes.byref(options),
        records.ctypes.data,
        ctypes.byref(stored),
        ctypes.byref(error),
    )
    if code == _TOO_LARGE:
        sizes = zip(records["size"].tolist(), options.page_bytes[: options.outputs], strict=True)
        size, room = next((size, room) for size, room in sizes if size > room)
        raise BadImageError(f"takes {size:,} bytes, but a page of the beton holds {room:,}")
    if code:
        raise BadImageError(error.text.decode(errors="replace"))
    return stored.value or 0


# ---------------------------------------------------------------------------------------------- pixels in
def decode(data: bytes) -> Pixels:
    """(height, width, 3) uint8 RGB. Raises BadImageError for what is not an image, incomplete or too large."""
    return _decoded(data)[0]


def _decoded(data: bytes) -> tuple[Pixels, bool]:
    """The pixels, and whether stock FFCV reads these bytes as they are."""
    if not data:
        raise BadImageError("empty file")
    if not data.startswith(b"\xff\xd8"):
        return _decode_pil(data), False
    try:
        try:
            return _decode_jpeg(data)
        except codec.BytesSkippedError:  # which loaders take for damage
            return _decode_jpeg(codec.without_superfluous_bytes(data, MAX_PIXELS))[0], False
    except codec.NativeError as error:
        raise BadImageError(f"JPEG: {error}") from None


def _decode_jpeg(data: bytes) -> tuple[Pixels, bool]:
    info = codec.probe(data)
    _check_size(info.width, info.height)
    try:
        return codec.decode(data), info.components in (1, 3) and not info.arithmetic
    except codec.NotRGBError:
        return _decode_pil(data), False


def _decode_pil(data: bytes) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    try:
        return pil_images.decode(data, _check_size)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        if kind := unread_picture_kind(data):
            raise BadImageError(f"{kind}, which is not read: convert it to JPEG or PNG") from None
        said, kind = pil_images.complaint(), picture_kind(data)
        why = said or (f"{kind} that is damaged, or of a form that is not read" if kind else "")
        raise BadImageError(f"cannot be decoded: {why}" if why else "not an image") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"more than {MAX_PIXELS:,} pixels") from None
    # PIL's decoders raise all kinds of exceptions for damaged files.
    except Exception as error:
        raise BadImageError(f"cannot be decoded: {error}") from None


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(f"{width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise BadImageError(f"{width} x {height} pixels: a side over {MAX_SIDE:,}")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels: more than {MAX_PIXELS:,}")


def wants_raw(key: str, storage: StorageOptions) -> bool:
    """Whether this sample is stored as pixels: drawn from the seed and the sample's key alone."""
    if storage.raw_share in (0.0, 1.0):
        return storage.raw_share == 1.0
    drawn = hashlib.blake2b(name_bytes(f"{storage.seed}/{key}"), digest_size=8).digest()
    return int.from_bytes(drawn, "little") < storage.raw_share * 2.0**64
