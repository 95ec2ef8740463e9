"""The native image code: JPEGs decoded and examined, XXH64 (`api.cpp`, bound by ctypes).

Every call releases the GIL, so threads run it in parallel. Pixels are integer arithmetic: the same bytes on
every machine with the same libjpeg-turbo.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.native.library import ErrorText, JpegHeader, JpegSurvey, library

Bytes = NDArray[np.uint8]
Data = bytes | bytearray | memoryview | Bytes

NOT_RGB, BYTES_SKIPPED = 2, 6  # base.h: Code
MOST_GAPS = 16  # each takes a dozen readings of the file
READ_AHEAD_BYTES = 16  # libjpeg keeps up to 8 coded bytes in hand, each of which may be followed by a zero


class NativeError(ValueError):
    """An image could not be read or written; the message is libjpeg's."""


class NotRGBError(NativeError):
    """A sound JPEG (CMYK, YCCK) that libjpeg cannot turn into RGB."""


class BytesSkippedError(NativeError):
    """A JPEG with bytes that libjpeg skips, harmless or not: see `without_superfluous_bytes`."""


ERRORS = {NOT_RGB: NotRGBError, BYTES_SKIPPED: BytesSkippedError}


def _call(function: Any, *arguments: Any) -> None:
    error = ErrorText()
    code = function(*arguments, ctypes.byref(error))
    if code:
        raise ERRORS.get(code, NativeError)(error.text.decode(errors="replace"))


def _bytes(data: Data) -> Bytes:
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise TypeError(f"expected contiguous bytes, got {array.dtype} of shape {array.shape}")
    return array


def probe(data: Data) -> JpegHeader:
    """Read a JPEG's header. Raises NativeError if there is none."""
    source, info = _bytes(data), JpegHeader()
    _call(library().native_probe, source.ctypes.data, source.size, ctypes.byref(info))
    return info


def decode(data: Data) -> Bytes:
    """Decode a JPEG to (height, width, 3) RGB.

    Raises NativeError also if libjpeg only warns but would invent pixels (premature end, corrupt data),
    and NotRGBError for sound CMYK and YCCK.
    """
    source, info = _bytes(data), probe(data)
    out = np.empty((info.height, info.width, 3), np.uint8)
    _call(library().native_decode, source.ctypes.data, source.size, out.ctypes.data, info.width, info.height)
    return out


def without_superfluous_bytes(data: bytes, most_pixels: int) -> bytes:
    """The JPEG without bytes between its segments or before a marker that belong to neither header nor coded data.

    `decode` accepts the result. Raises NativeError if pixels are lost as well, or may be,
    and for an image of more than `most_pixels`: all its coefficients are held in memory.
    """
    for _ in range(MOST_GAPS):
        found = _survey(data, most_pixels)
        if not found.found:
            return data
        data = _without_last_gap(data, found, most_pixels)
    raise NativeError(f"superfluous bytes in more than {MOST_GAPS} places")


def _survey(data: bytes, most_pixels: int) -> JpegSurvey:
    survey = JpegSurvey()
    _call(library().native_survey, _bytes(data).ctypes.data, len(data), most_pixels, ctypes.byref(survey))
    return survey


def _without_last_gap(data: bytes, found: JpegSurvey, most_pixels: int) -> bytes:
    marker = found.marker
    if found.in_header or not _follows_coded_data(data, marker - found.skipped):
        return data[: marker - found.skipped] + data[marker:]

    def unchanged(end: int, tail: bytes = b"") -> bool:
        """Whether the picture is the same if `tail` replaces all from `end` to the marker."""
        try:
            return bool(_survey(data[:end] + tail + data[marker:], most_pixels).coefficients == found.coefficients)
        except NativeError:
            return False

    # libjpeg reports the few bytes that it had read ahead at a later restart marker than the one that they precede.
    for _ in range(MOST_GAPS):
        if unchanged(marker - 1):
            break
        marker = max(data.rfind(bytes([0xFF, restart]), 0, marker) for restart in range(0xD0, 0xD8))
        if marker < 0:
            raise NativeError("Corrupt JPEG data: superfluous bytes in an unknown place")
    # How far the coded data reach is what cannot be cut off without loss. A bisection finds it.
    needed, end = marker - 2 * found.skipped - READ_AHEAD_BYTES, marker
    while needed > 0 and unchanged(needed):
        needed, end = needed - 2 * (marker - needed), needed
    needed = max(needed, 0)
    while end - needed > 1:
        middle = (needed + end) // 2
        needed, end = (needed, middle) if unchanged(middle) else (middle, end)
    # Coded data end with one bits up to a whole byte. A zero bit that can be set without changing anything shows that
    # the decoder stopped elsewhere: these bytes are what a corrupt stream left over.
    last = data[end - 1]
    stuffed = data[end - 2 : end] == b"\xff\x00"
    padded = bytes([last | (last + 1)]).replace(b"\xff", b"\xff\x00") if last < 0xFF else b""
    if end == marker or (not stuffed and unchanged(end - 1, padded)):
        raise NativeError(f"Corrupt JPEG data: {marker - end} coded bytes left over at byte {end}")
    return data[:end] + data[marker:]


def _follows_coded_data(data: bytes, end: int) -> bool:
    """Whether the last marker before `end` begins coded data: SOS or a restart marker."""
    at = end
    while (at := data.rfind(0xFF, 0, at)) >= 0:
        if 0xC0 <= data[at + 1] < 0xFF:
            return data[at + 1] == 0xDA or 0xD0 <= data[at + 1] <= 0xD7
    return False


def checksum(data: Data) -> int:
    """XXH64 with seed 0."""
    source = _bytes(data)
    return int(library().native_checksum(source.ctypes.data, source.size))


def libjpeg_version() -> str:
    """The library that the code was built with, such as "libjpeg-turbo 2.1.5"."""
    return str(library().native_libjpeg_version().decode())


def vectors() -> str:
    """The instruction set of the pixel loops on this processor: AVX2, NEON or baseline."""
    return str(library().native_vectors().decode())
