"""A beton opened for reading: checked against its manifest first, then its tables as plain arrays."""

import os
import resource
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools import layout, manifest
from training.engine import TASK

SPARE_DESCRIPTORS = 16


class LoadError(RuntimeError):
    """A sample could not be loaded; the message names the beton, the sample and the reason."""


class Opened:
    """The samples of a beton. `widths`, `heights`, `labels` are arrays over all of them; `close` is idempotent.

    `classes`: how many the model has; ValueError where a label is outside of them. `checksums`: compare every
    sample's bytes with NAME.beton.xxh64 when it is loaded.
    """

    def __init__(self, path: Path, *, classes: int | None = None, checksums: bool = False) -> None:
        self.path = Path(path)
        self.manifest = manifest.read(self.path)
        faults = layout.check(self.path, self.manifest)
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise ValueError(f"{faults[0]}{more}; run write_datasets.py again")
        found = layout.read(self.path)
        self.images = len(found.samples)
        self.page_bytes = found.page_bytes
        self.file_bytes = found.file_bytes
        image = found.samples["f0"]
        self.labels = np.ascontiguousarray(found.samples["f1"])
        self.widths, self.heights = image["width"].astype(np.int32), image["height"].astype(np.int32)
        self._tasks = np.zeros(self.images, TASK)
        for name, values in (
            ("at", image["data_ptr"]),
            ("size", found.sizes()),
            ("mode", image["mode"]),
            ("image_width", self.widths),
            ("image_height", self.heights),
        ):
            self._tasks[name] = values
        self.verify = checksums
        if checksums:
            self._tasks["checksum"] = _checksums(self.path, self.images)
        self._check_labels(classes)
        self.file = _open(self.path)

    def _check_labels(self, classes: int | None) -> None:
        if classes is not None and self.labels.size and int(self.labels.max()) >= classes:
            worst = int(self.labels.argmax())
            raise ValueError(
                f"{self.path}: sample {worst} has label {self.labels[worst]}, but the model has {classes} classes"
            )

    def tasks(self, samples: NDArray[np.int64], crops: NDArray[np.void]) -> NDArray[np.void]:
        """Rows for the native threads."""
        tasks = self._tasks[samples]
        tasks["crop"] = crops
        return tasks

    def pages(self) -> NDArray[np.uint64]:
        """The page of the file that holds each sample."""
        return self._tasks["at"] // np.uint64(self.page_bytes)

    def check_unchanged(self) -> None:
        """Raises LoadError when the file is not as long as when it was opened."""
        size = os.fstat(self.file).st_size
        if size != self.file_bytes:
            raise LoadError(
                f"{self.path}: {size} bytes, but {self.file_bytes} when it was opened; it was changed in use"
            )

    def explain(self, sample: int, reason: str) -> LoadError:
        return LoadError(
            f"{self.path}: sample {sample} (label {self.labels[sample]}) cannot be loaded: {reason}; "
            "run `python -m data_tools.verify` on the file"
        )

    def close(self) -> None:
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


def _checksums(path: Path, images: int) -> NDArray[np.uint64]:
    sidecar = manifest.checksums_of(path)
    if not sidecar.exists():
        raise FileNotFoundError(f"{sidecar}: no checksums beside the beton; run write_datasets.py again")
    checksums = np.fromfile(sidecar, "<u8")
    if len(checksums) != images:
        raise ValueError(f"{sidecar}: {len(checksums)} checksums for {images} samples; run write_datasets.py again")
    return checksums


def _open(path: Path) -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    if allowed - used < SPARE_DESCRIPTORS:
        raise OSError(f"{path}: {used} of {allowed} file descriptors are in use; raise the limit: ulimit -n 4096")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
