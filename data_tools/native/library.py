"""The native library: its functions, its threads, and every struct that Python and C++ share.

The structs have the same layout as their counterparts in the C++ headers beside this file.
"""

import ctypes
import functools
import os
import weakref
from ctypes import c_double, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

WAIT_MILLISECONDS = 100  # after this long, Python looks whether it is to stop, even while a disk hangs

# A part of an image, and whether to mirror it (crops.h: Crop).
CROP = np.dtype([(name, "<i4") for name in ("top", "left", "height", "width", "flip")])

# A sample of a batch to load: its bytes in the file, and the crop to take (jpeg_crops.h: Task).
TASK = np.dtype(
    [
        *((name, "<u8") for name in ("at", "size", "checksum")),
        *((name, "<i4") for name in ("mode", "image_width", "image_height")),
        ("crop", CROP),
    ]
)


# Where an image's bytes are: in memory, in a file by name, or in an open file (convert.h: Source).
SOURCE = np.dtype(
    [("data", "<u8"), ("path", "<u8"), ("at", "<u8"), ("size", "<u8"), ("file", "<i4"), ("as_pixels", "<i4")]
)

# What is stored of an image in one output (convert.h: Record).
RECORD = np.dtype(
    [("mode", "u1"), ("kept", "u1"), ("width", "<u2"), ("height", "<u2"), ("size", "<u4"), ("checksum", "<u8")]
)


class ErrorText(ctypes.Structure):
    """base.h: Error."""

    _fields_ = (("text", ctypes.c_char * 256),)


SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1)}
GREY = 1  # libjpeg's JCS_GRAYSCALE


class JpegHeader(ctypes.Structure):
    """jpeg.h: Info. `quality_estimate` is libjpeg's quality, 1 to 100, from the luminance table."""

    _fields_ = tuple(
        (name, c_int32)
        for name in (
            *("width", "height", "components", "colours", "h_samples", "v_samples"),
            *("progressive", "arithmetic", "restart_interval", "quality_estimate"),
        )
    )

    @property
    def subsampling(self) -> str:
        samples = self.h_samples, self.v_samples
        names = (name for name, each in SUBSAMPLING.items() if each == samples)
        return "grey" if self.colours == GREY else next(names, "{}x{}".format(*samples))


class JpegSurvey(ctypes.Structure):
    """jpeg.h: Survey."""

    _fields_ = (
        *((name, c_uint64) for name in ("coefficients", "marker", "skipped")),
        *((name, c_int32) for name in ("found", "in_header")),
    )


class EncodeOptions(ctypes.Structure):
    """jpeg.h: EncodeOptions."""

    _fields_ = tuple((name, c_int32) for name in ("quality", "h_samples", "v_samples", "seekable"))


class RandomCropRule(ctypes.Structure):
    """crops.h: CropRule."""

    _fields_ = (
        ("seed", c_uint64),
        ("epoch", c_uint64),
        *((name, c_double) for name in ("min_scale", "max_scale", "min_ratio", "max_ratio")),
    )


LOAD, CONVERT = 0, 1  # work.h: Kind
WORK: tuple[Any, ...] = (  # work.h: Work
    *((name, c_int32) for name in ("kind", "items", "taken", "finished", "failed", "code")),
    ("error", ctypes.c_char * 256),
)


class BatchRequest(ctypes.Structure):
    """jpeg_crops.h: Batch."""

    _fields_ = (
        *WORK,
        ("tasks", c_void_p),
        ("out", c_void_p),
        *((name, c_int32) for name in ("file", "height", "width", "verify")),
    )


class StoreOptions(ctypes.Structure):
    """convert.h: StoreOptions."""

    _fields_ = (
        ("caps", ctypes.POINTER(c_int32)),  # not c_void_p: so it keeps what it points to
        ("page_bytes", ctypes.POINTER(c_uint64)),
        ("most_pixels", c_uint64),
        *((name, c_int32) for name in ("outputs", "longer", "lanczos", "quality", "seekable", "keep", "most_side")),
    )


class ConversionRequest(ctypes.Structure):
    """convert.h: Conversion."""

    _fields_ = (
        *WORK,
        *((name, c_void_p) for name in ("sources", "options", "records", "stored", "codes")),
    )


FUNCTIONS = {  # arguments, result
    "native_probe": ([c_void_p, c_size_t, c_void_p, c_void_p], c_int32),
    "native_decode": ([c_void_p, c_size_t, c_void_p, c_int32, c_int32, c_void_p], c_int32),
    "native_survey": ([c_void_p, c_size_t, c_uint64, c_void_p, c_void_p], c_int32),
    "native_encode": ([c_void_p, c_int32, c_int32, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p], c_int32),
    "native_resize": ([c_void_p, c_int32, c_int32, c_void_p, c_int32, c_int32, c_int32, c_void_p], c_int32),
    "native_store": (
        [c_void_p, c_int32, c_int32, c_void_p, c_size_t, c_int32, c_void_p, c_void_p, c_void_p, c_void_p],
        c_int32,
    ),
    "native_gather": ([c_void_p, c_void_p, c_int32, c_int32, c_int32, c_void_p], None),
    "native_free": ([c_void_p], None),
    "native_libjpeg_version": ([], ctypes.c_char_p),
    "native_vectors": ([], ctypes.c_char_p),
    "native_checksum": ([c_void_p, c_size_t], c_uint64),
    "native_crops": ([c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_void_p], None),
    "native_sample_key": ([c_void_p, c_int64], c_uint32),
    "native_pool_new": ([c_int32], c_void_p),
    "native_pool_delete": ([c_void_p], None),
    "native_pool_submit": ([c_void_p, c_void_p], None),
    "native_pool_wait": ([c_void_p, c_void_p, c_int32], c_int32),
    "native_pool_cancel": ([c_void_p, c_void_p], None),
    "native_loop": ([c_void_p, c_void_p], c_int32),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded on the first call. ImportError if it is not built."""
    files = sorted(Path(__file__).parent.glob("_native*.so"))
    if not files:
        raise ImportError("the native image code is not built: run `make env`, or elsewhere `pip install -e .`")
    loaded = ctypes.CDLL(str(files[0]))
    for name, (arguments, result) in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    return loaded


class NativePool:
    """`threads` native threads, which take works in the order of submission. Closing waits for the items at hand, a few
    milliseconds.

    A forked process has none of the threads, and their locks in whatever state they were: there the pool is not usable,
    and closing it leaves them alone.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads do nothing")
        self._handle = library().native_pool_new(threads)
        if not self._handle:
            raise RuntimeError(f"the system cannot start {threads} threads (see `ulimit -u`)")
        self.process = os.getpid()
        # Also at the interpreter's exit, while the memory that the threads write to is still there.
        self.close = weakref.finalize(self, _delete, self._handle, self.process)

    def submit(self, work: ctypes.Structure) -> None:
        """Begin a work, a struct that begins with `library.WORK`; what it points to must stay until it is finished."""
        self.check_open()
        library().native_pool_submit(self._handle, ctypes.byref(work))

    def finished(self, work: ctypes.Structure, milliseconds: int = 0) -> bool:
        """Whether a work is finished, after waiting for it up to this long; there is no other way to wait."""
        self.check_open()
        return bool(library().native_pool_wait(self._handle, ctypes.byref(work), milliseconds))

    def cancel(self, work: ctypes.Structure) -> None:
        """Forget a work; on return no thread touches it."""
        if self.close.alive and not self.is_forked:
            library().native_pool_cancel(self._handle, ctypes.byref(work))

    @property
    def is_forked(self) -> bool:
        """Whether this process is not the one that has the threads."""
        return os.getpid() != self.process

    def check_open(self) -> None:
        """RuntimeError once it is closed, and in a process that was forked."""
        if self.is_forked:
            raise RuntimeError(f"the threads are in process {self.process}, not in {os.getpid()}")
        if not self.close.alive:
            raise RuntimeError("the pool is closed")


def _delete(handle: int, process: int) -> None:
    if os.getpid() == process:
        library().native_pool_delete(handle)
