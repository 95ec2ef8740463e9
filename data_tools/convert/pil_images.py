"""Pictures of every kind that PIL reads, whole or not at all.

PIL raises for most damage, but where a decoder ends early without an error (half a PNG whose zlib stream is closed, a
GIF with an early end code, a TIFF that lacks strips), it leaves the rest of the picture as it was: black.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import threading
import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_tools.native import codec

if TYPE_CHECKING:
    from PIL import ImageFile

# No PostScript and no PDF: decoding them starts other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# Two colours to fill a picture with before decoding, by band. Few photographs have a pixel of the first.
_CANVASES = ((253, 2, 254, 1), (0, 253, 1, 254))
# Tags of TIFF, each first for strips and then for tiles.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _JPEG_TABLES = 256, 257, 258, 259, 262, 284, 347
_OFFSETS, _BYTES, _ROWS, _TILE_WIDTH = (273, 324), (279, 325), (278, 323), 322
_UNCOMPRESSED, _JPEG, _SEPARATE, _WHITE_IS_ZERO = 1, 7, 2, 0

logger = logging.getLogger(__name__)
_said = threading.local()  # what PIL has logged about the picture at hand


def decode(data: bytes, check_size: Callable[[int, int], None]) -> NDArray[np.uint8]:
    """The first frame as (height, width, 3) uint8 RGB. Raises whatever PIL raises, and ValueError if data is missing.

    `check_size` gets width and height before anything is decoded.
    """
    from PIL import Image

    _keep_quiet()
    _said.text = ""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(*image.size)
        if image.format == "JPEG":  # libjpeg has already found it complete
            return np.asarray(image.convert("RGB"))
        tags = dict(image.tag_v2) if image.format == "TIFF" else {}  # type: ignore[attr-defined]
        if tags:
            _check_tiff(data, tags)
        grey = _grey_range(image, tags)
        if image.format == "PNG":
            _check_png(data)
        box = _box_to_fill(image)
        decoded = _decoded_onto(image, _CANVASES[0], box)
        if _may_show(_CANVASES[0], decoded):
            with Image.open(io.BytesIO(data), formats=FORMATS) as again:
                if not np.array_equal(decoded, _decoded_onto(again, _CANVASES[1], box)):
                    raise ValueError("not enough image data")
        return np.asarray(image.convert("RGB")) if grey is None else _scaled(decoded, *grey)


def complaint() -> str:
    """What PIL has logged about the picture that this thread decoded last."""
    return str(getattr(_said, "text", ""))


@functools.cache
def _keep_quiet() -> None:
    """Keep PIL from printing something for each of a million pictures."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd EXIF, and a lower limit on size than ours
    handler = logging.Handler()
    handler.emit = lambda record: setattr(_said, "text", record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("PIL").addHandler(handler)
    logging.getLogger("PIL").propagate = False


# ---------------------------------------------------------------------------------------------- more than 8 bits
def _grey_range(image: ImageFile.ImageFile, tags: dict[int, Any]) -> tuple[int, int] | None:
    """The values of black and white if it is greyscale of more than 8 bits, of which PIL's `convert("RGB")` makes 255
    of all that is over 255. Raises ValueError if they are not known."""
    if image.mode.startswith("I;16"):
        white = (1 << tags.get(_BITS, (16,))[0]) - 1
        return (white, 0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (0, white)
    if image.mode == "I" and image.format == "PPM":  # PIL has scaled it
        return 0, 65_535
    if image.mode in ("I", "F"):
        raise ValueError("greyscale of 32 bits, signed or float: its black and white are not known; make it 8 bits")
    return None


def _scaled(pixels: NDArray[Any], black: int, white: int) -> NDArray[np.uint8]:
    """(height, width, 3) of 8 bits from greyscale of more."""
    _say_scaled(abs(white - black))
    grey = (np.abs(pixels.astype(np.int64) - black) * 255 + abs(white - black) // 2) // abs(white - black)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@functools.cache
def _say_scaled(most: int) -> None:
    logger.warning("greyscale images of 0 to %s are scaled to 8 bits; those that use less of it are dark", f"{most:,}")


# ---------------------------------------------------------------------------------------------- what is missing
def _box_to_fill(image: ImageFile.ImageFile) -> tuple[int, int, int, int]:
    """Left, top, right, bottom: all of the picture, or what a GIF's first frame covers."""
    first_frame = image.tile[0].extents if image.format == "GIF" and image.tile else None
    return first_frame or (0, 0, *image.size)


def _decoded_onto(image: ImageFile.ImageFile, canvas: tuple[int, ...], box: tuple[int, int, int, int]) -> NDArray[Any]:
    """The pixels in the file's own mode, decoded over a box of one colour."""
    prepare = image.load_prepare

    def fill() -> None:
        prepare()
        bands = len(image.getbands())
        image.im.paste(canvas[:bands] if bands > 1 else canvas[0], box)

    image.load_prepare = fill  # type: ignore[method-assign]
    image.load()
    return np.asarray(image)


def _may_show(canvas: tuple[int, ...], pixels: NDArray[Any]) -> bool:
    if pixels.ndim == 2:
        return True
    bands = (pixels[..., band] == canvas[band] for band in range(pixels.shape[2]))  # a fifth of the time of all(-1)
    return bool(functools.reduce(np.logical_and, bands).any())


def _check_png(data: bytes) -> None:
    """PIL compares the checksums of all chunks it needs, except those of the pixels."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        wrong = zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT" and wrong:
            raise ValueError("the checksum of its image data is wrong")
        at = end + 4


def _check_tiff(data: bytes, tags: dict[int, Any]) -> None:
    """PIL reads an uncompressed strip's rows from where it begins, however few bytes the file says it has, and libtiff
    fills up a JPEG that is cut short."""
    tiled = int(_BYTES[1] in tags)
    sizes, offsets = tags.get(_BYTES[tiled], ()), tags.get(_OFFSETS[tiled], ())
    compression = tags.get(_COMPRESSION, _UNCOMPRESSED)
    if compression == _JPEG:
        tables = tags.get(_JPEG_TABLES, b"\xff\xd8\xff\xd9")[:-2]
        for offset, size in zip(offsets, sizes, strict=False):
            with contextlib.suppress(codec.NotRGBError):
                codec.decode(tables + data[offset + 2 : offset + size])
    if compression != _UNCOMPRESSED:
        return
    bits = tags.get(_BITS, (1,))
    width, height = tags[_TILE_WIDTH if tiled else _WIDTH], tags[_HEIGHT]
    row_bytes = -(-width * (bits[0] if tags.get(_PLANES) == _SEPARATE else sum(bits)) // 8)
    rows = tags.get(_ROWS[tiled], height)
    strips = -(-height // rows)  # of a plane; the last may have fewer rows, a tile has all
    for number, size in enumerate(sizes):
        if size < row_bytes * (rows if tiled else min(rows, height - number % strips * rows)):
            raise ValueError("a strip or tile has too few bytes")
