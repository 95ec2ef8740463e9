"""A beton opened for reading: checked against its manifest first, then its tables as plain arrays."""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.checks import AGAIN, read_checksums, structure_faults
from data_tools.beton.format import BetonError, read_layout
from data_tools.beton.manifest import checksums_path, read_manifest
from data_tools.common.errors import UserError
from data_tools.common.files import too_many_open_files
from data_tools.native.library import TASK


class LoadError(UserError, RuntimeError):
    """Batches could not be loaded; the message names the beton, the reason and, if it is one, the sample."""


def not_copied(self: object, protocol: object) -> NoReturn:
    """The ``__reduce_ex__`` of what holds an open file or threads: it cannot be copied, nor sent to another process."""
    what = f"a {type(self).__name__} holds an open file and threads, and cannot be copied or pickled"
    raise LoadError(what, remedy="make another with the same arguments, in the process that uses it")


class BetonReader:
    """The samples of a beton. `widths`, `heights`, `labels` are arrays over all of them; `fields` names image and
    label; `close` is idempotent.

    `classes`: how many the model has; BetonError where a label is outside of them. `checksums`: compare every
    sample's bytes with NAME.beton.xxh64 when it is loaded.
    """

    __reduce_ex__ = not_copied

    def __init__(self, path: Path, *, classes: int | None = None, checksums: bool = False) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        faults = structure_faults(self.path, self.manifest)
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise BetonError(f"{faults[0]}{more}", remedy=AGAIN)
        layout = read_layout(self.path)
        # If there are checksums, their digests also show that the tables are those that were written.
        kept = read_checksums(layout, self.manifest) if checksums or checksums_path(self.path).exists() else None
        self.images, self.checksums = len(layout.samples), checksums
        self.page_bytes, self.fields = layout.page_bytes, layout.fields
        image = layout.samples["f0"]
        self.labels = np.ascontiguousarray(layout.samples["f1"])
        self.widths, self.heights = image["width"].astype(np.int32), image["height"].astype(np.int32)
        self._tasks = np.zeros(self.images, TASK)
        columns = {"at": image["data_ptr"], "size": layout.sizes(), "mode": image["mode"]}
        columns |= {"image_width": self.widths, "image_height": self.heights}
        for name, values in (columns if kept is None else columns | {"checksum": kept}).items():
            self._tasks[name] = values
        if classes is not None and self.images and int(self.labels.max()) >= classes:
            worst = int(self.labels.argmax())
            what = f"sample {worst} has label {self.labels[worst]}, but the model has {classes} classes"
            raise BetonError(what, where=self.path)
        try:
            self.file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise too_many_open_files(error, self.path) or error from None
        self._absolute = self.path.absolute()  # the working directory may change
        self._mark = _mark(os.fstat(self.file))

    def tasks(self, samples: NDArray[np.int64], crops: NDArray[np.void]) -> NDArray[np.void]:
        """Rows for the native threads."""
        tasks = self._tasks[samples]
        tasks["crop"] = crops
        return tasks

    def pages(self, samples: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
        at = self._tasks["at"] if samples is None else self._tasks["at"][samples]
        return at // np.uint64(self.page_bytes)

    def read_ahead(self, pages: Iterable[int]) -> None:
        """Have the system fetch these pages of the file meanwhile."""
        for page in pages:
            os.posix_fadvise(self.file, page * self.page_bytes, self.page_bytes, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """Raises LoadError when the file under this name is not the one that was opened, or was written to since."""
        try:
            now = _mark(self._absolute.stat())
        except OSError as error:
            raise LoadError(f"gone while in use ({error.strerror})", where=self.path, remedy="put it back") from None
        if now != self._mark:
            differing = [
                f"{old} when it was opened, now {new}" for old, new in zip(self._mark, now, strict=True) if old != new
            ]
            raise LoadError(
                f"changed while in use ({'; '.join(differing)})",
                where=self.path,
                remedy="put back the file that the run began with, or start a new run",
            )

    def load_error(self, sample: int, reason: str) -> LoadError:
        return LoadError(
            f"sample {sample} (label {self.labels[sample]}) cannot be loaded: {reason}",
            where=self.path,
            remedy="run `python -m data_tools.verify` on the file",
        )

    def close(self) -> None:
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


def _mark(status: os.stat_result) -> tuple[str, str, str, str]:
    """What changes when a file is replaced, cut or written to."""
    seconds, ns = divmod(status.st_mtime_ns, 10**9)
    modified = f"modified at {datetime.fromtimestamp(seconds)}.{ns:09}"
    return f"device {status.st_dev}", f"inode {status.st_ino}", f"{status.st_size:,} bytes", modified
