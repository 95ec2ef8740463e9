"""Parts of a conversion that the native code does by themselves: to encode, to resize."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.native.library import SUBSAMPLING, EncodeOptions, ErrorText, library

Picture = NDArray[np.uint8]  # (height, width, 3)


def call(function: Any, *arguments: Any) -> None:
    error = ErrorText()
    assert function(*arguments, ctypes.byref(error)) == 0, error.text


def encode(rgb: Picture, *, quality: int, subsampling: str = "420", seekable: bool = False) -> NDArray[np.uint8]:
    """The bytes of a baseline JPEG. `seekable` puts a restart marker after every MCU."""
    picture, size = np.ascontiguousarray(rgb), ctypes.c_size_t()
    height, width, _ = picture.shape
    options = EncodeOptions(quality, *SUBSAMPLING[subsampling], seekable)
    out = np.empty(6 * (height + 31) * (width + 31) + 4096, np.uint8)  # TurboJPEG's bound, with a margin
    arguments = picture.ctypes.data, width, height, ctypes.byref(options), out.ctypes.data, out.size, ctypes.byref(size)
    call(library().native_encode, *arguments)
    return out[: size.value].copy()


def resize(rgb: Picture, height: int, width: int, filter: Literal["area", "lanczos"] = "area") -> Picture:
    """`area`: each axis averages by area where it shrinks, and is bilinear where it grows. `lanczos`: as PIL's."""
    picture, out = np.ascontiguousarray(rgb), np.empty((height, width, 3), np.uint8)
    sizes = picture.ctypes.data, *picture.shape[:2], out.ctypes.data, height, width
    call(library().native_resize, *sizes, filter == "lanczos")
    return out
