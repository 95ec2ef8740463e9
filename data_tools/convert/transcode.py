"""One image: the source's bytes in, the bytes to store for every size out. The same input gives the same output.

Pixels are what PIL's `convert("RGB")` makes of the file, EXIF orientation ignored, as torchvision's ImageFolder
has it. A JPEG goes through libjpeg-turbo directly (`native`), everything else through PIL. An image
that is cut short or corrupt is a `BadImageError`, never half a picture.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import JPG, RAW
from data_tools.common.file_kinds import unread_picture_kind
from data_tools.common.names import name_bytes
from data_tools.convert import pil_images
from data_tools.native import codec

Pixels = NDArray[np.uint8]

MAX_PIXELS = 100_000_000  # more is a decompression bomb
MAX_SIDE = 65_535  # the metadata holds sides as uint16
HALVED_BELOW = 160  # caps up to this are made from the 320 px image; measured safe, 56 dB against the original
HALVED_FROM = 320
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_KEPT_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman coded

# What a worker reports about each stored image.
RECORD = np.dtype(
    [
        ("mode", "u1"),
        ("kept", "u1"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("size", "<u4"),
        ("checksum", "<u8"),
    ]
)


class BadImageError(ValueError):
    """An image that cannot be stored whole; the text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageOptions:
    """How every image is stored.

    caps: one entry an output, None for the pixels as they are. seekable: JPEGs made for a cap can be cut without
    decoding them (see `codec.encode`). keep: store the file's own bytes where an uncapped output is a plain JPEG.
    raw_share: the share of samples stored as pixels, 0 for none and 1 for all. page_bytes: by output, what a sample
    may take at most.
    """

    caps: tuple[int | None, ...]
    side: Literal["shorter", "longer"]
    quality: int
    seekable: bool
    keep: bool
    raw_share: float
    seed: int
    page_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """What goes into one beton for one image. `kept`: these are the file's own bytes."""

    mode: int
    width: int
    height: int
    data: Any  # bytes or a flat uint8 array
    checksum: int
    kept: bool = False


def store(data: bytes, key: str, storage: StorageOptions) -> list[Stored]:
    """What is stored of one image, by output. Raises BadImageError."""
    pixels, superfluous = _decoded(data)
    plain = is_plain_jpeg(data) and not superfluous  # loaders take superfluous bytes for damage
    raw = wants_raw(key, storage)
    sized = dict(zip(storage.caps, sizes(pixels, storage.caps, storage.side), strict=True))
    encoded: dict[tuple[tuple[int, ...], bool, bool], Stored] = {}
    out = []
    for cap, page_bytes in zip(storage.caps, storage.page_bytes, strict=True):
        image = sized[cap]
        original = _stored(JPG, image, data, kept=True) if cap is None and plain else None
        if original and storage.keep and not raw and len(data) <= page_bytes:
            out.append(original)
            continue
        as_pixels = raw and image.size <= page_bytes  # a sample must fit a page
        # At full size, where the crop is most of the picture, the markers gain too little (docs/PERFORMANCE.md).
        seekable = storage.seekable and cap is not None
        kind = (image.shape, as_pixels, seekable)
        if kind not in encoded:  # an image below a cap is the same picture in several outputs
            encoded[kind] = _encoded(image, as_pixels, storage.quality, seekable)
        out.append(_fitting(encoded[kind], original, page_bytes))
    return out


def _encoded(image: Pixels, as_pixels: bool, quality: int, seekable: bool) -> Stored:
    if as_pixels:
        return _stored(RAW, image, image.reshape(-1))
    return _stored(JPG, image, codec.encode(image, quality=quality, subsampling="420", seekable=seekable))


def _fitting(encoded: Stored, original: Stored | None, page_bytes: int) -> Stored:
    """The encoded image, or the original if only that fits: pages are at least as large as the largest file."""
    for stored in (encoded, original):
        if stored and len(stored.data) <= page_bytes:
            return stored
    raise BadImageError(f"takes {len(encoded.data):,} bytes, but a page of the beton holds {page_bytes:,}")


def _stored(mode: int, image: Pixels, data: Any, kept: bool = False) -> Stored:
    height, width = image.shape[:2]
    return Stored(mode, width, height, data, codec.checksum(data), kept)


# ---------------------------------------------------------------------------------------------- pixels in
def decode(data: bytes, *, strict: bool = False) -> Pixels:
    """(height, width, 3) uint8 RGB. Raises BadImageError for what is not an image, incomplete or too large.

    `strict` also refuses superfluous bytes within a JPEG, as a loader does.
    """
    pixels, superfluous = _decoded(data)
    if strict and superfluous:
        raise BadImageError(f"JPEG: {superfluous}")
    return pixels


def _decoded(data: bytes) -> tuple[Pixels, str]:
    """The pixels, and what libjpeg says about superfluous bytes; empty if there are none."""
    if not data:
        raise BadImageError("empty file")
    if not data.startswith(b"\xff\xd8"):
        return _decode_pil(data), ""
    try:
        return _decode_jpeg(data), ""
    except codec.BytesSkippedError as error:
        complaint = str(error)
    except codec.NativeError as error:
        raise BadImageError(f"JPEG: {error}") from None
    try:
        return _decode_jpeg(codec.without_superfluous_bytes(data, MAX_PIXELS)), complaint
    except codec.NativeError as error:
        raise BadImageError(f"JPEG: {error}") from None


def _decode_jpeg(data: bytes) -> Pixels:
    info = codec.probe(data)
    _check_size(info.width, info.height)
    try:
        return codec.decode(data)
    except codec.NotRGBError:
        return _decode_pil(data)


def _decode_pil(data: bytes) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd EXIF, and a lower limit on size than ours
        try:
            return pil_images.decode(data, _check_size)
        except BadImageError:
            raise
        except UnidentifiedImageError:
            kind = unread_picture_kind(data)
            reason = f"{kind}, which is not read: convert it to JPEG or PNG" if kind else "not an image"
            raise BadImageError(reason) from None
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


def is_plain_jpeg(data: bytes) -> bool:
    """Whether stock FFCV reads these bytes as they are: a baseline or progressive JPEG, grey or of three channels."""
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _FRAME_MARKERS:
            return marker in _KEPT_FRAMES and at + 9 < len(data) and data[at + 4] == 8 and data[at + 9] in (1, 3)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


# ---------------------------------------------------------------------------------------------- sizes
def capped(height: int, width: int, cap: int | None, side: str) -> tuple[int, int]:
    """(height, width) with the shorter or longer side at most `cap`; downwards only, no side below 1."""
    short, long = min(height, width), max(height, width)
    if cap is None or (short if side == "shorter" else long) <= cap:
        return height, width
    if side == "shorter":
        short, long = cap, max(1, long * cap // short)
    else:
        short, long = max(1, short * cap // long), cap
    return (short, long) if height <= width else (long, short)


def sizes(pixels: Pixels, caps: Sequence[int | None], side: str) -> list[Pixels]:
    """The picture at every cap. Small caps are made from the 320 px picture whether or not that is an output too,
    so that a beton does not depend on the others written with it."""
    done: dict[int | None, Pixels] = {None: pixels}
    for cap in sorted({cap for cap in caps if cap is not None}, reverse=True):
        if cap <= HALVED_BELOW and HALVED_FROM not in done:
            done[HALVED_FROM] = _resized(pixels, HALVED_FROM, pixels.shape, side)
        done[cap] = _resized(done[HALVED_FROM] if cap <= HALVED_BELOW else pixels, cap, pixels.shape, side)
    return [done[cap] for cap in caps]


def _resized(pixels: Pixels, cap: int, shape: tuple[int, ...], side: str) -> Pixels:
    # The size comes from the original's, not from an intermediate's rounded one.
    height, width = capped(shape[0], shape[1], cap, side)
    return pixels if (height, width) == pixels.shape[:2] else codec.resize(pixels, height, width)


def wants_raw(key: str, storage: StorageOptions) -> bool:
    """Whether this sample is stored as pixels: drawn from the seed and the sample's key alone."""
    if storage.raw_share in (0.0, 1.0):
        return storage.raw_share == 1.0
    drawn = hashlib.blake2b(name_bytes(f"{storage.seed}/{key}"), digest_size=8).digest()
    return int.from_bytes(drawn, "little") < storage.raw_share * 2.0**64
