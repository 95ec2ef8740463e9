"""One parquet table of images: its columns, its labels and its pictures. Needs pyarrow (the extra `parquet`).

An image is the bytes themselves, or `{bytes, path}` as the Hugging Face hub has them; a label is a number or a text.
The bytes are in compressed pages, so rows are read in file order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_tools.common.files import too_many_open_files
from data_tools.sources.tar import SourceError

if TYPE_CHECKING:
    from pyarrow import DataType

_ROW_BITS = 32  # an offset is (row group, row)
_BATCH_ROWS = 32
_BATCH_BYTES = 1 << 30  # arrow cannot hold 2 GB in a batch of `{bytes, path}`
_SPOTS, _SPOT_BYTES = 16, 4096  # of a shard, read for its digest


class Columns(NamedTuple):
    """Which columns hold the images and their labels."""

    image: str
    label: str


class Table:
    """An open shard, until it is closed. Raises SourceError if the file is not one."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError:
            remedy = "make env EXTRAS=parquet, or elsewhere pip install 'pyarrow>=17'"
            raise SourceError("parquet needs pyarrow", where=path, remedy=remedy) from None
        _use_frugal_allocator()
        self.path = path
        self._group, self._start = -1, 0  # of the batch that was read last
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        with self.arrow_errors():
            self.source: Any = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        self.kinds: dict[str, DataType] = {field.name: field.type for field in self.source.schema_arrow}

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self.source.close()

    @contextlib.contextmanager
    def arrow_errors(self) -> Iterator[None]:
        """Make one line of what arrow raises for a damaged file."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError, ValueError) as error:
            if limit := too_many_open_files(error, self.path):
                raise limit from None
            what = f"not a complete parquet file ({error})"
            raise SourceError(what, where=self.path, remedy="download it again") from None

    # ------------------------------------------------------------------------------------------ columns
    def may_hold_images(self) -> bool:
        return any(map(_holds_images, self.kinds.values()))

    def columns(self, image: str | None = None, label: str | None = None) -> Columns:
        """The columns of these names, else `image` and `label`, else the only ones that can be meant. Raises
        SourceError, naming what there is."""
        repeated = [name for name, count in Counter(self.source.schema_arrow.names).items() if count > 1]
        if repeated:
            raise SourceError(f"has {repeated[0]} as the name of two columns", where=self.path, remedy="rename one")
        images = [name for name, kind in self.kinds.items() if _field(kind, "bytes") >= 0]
        labels = [name for name in self.kinds if self.class_names(name)]
        return Columns(
            self._column("image", image, images, _holds_images), self._column("label", label, labels, _holds_labels)
        )

    def _column(self, what: str, name: str | None, marked: list[str], fits: Callable[[DataType], bool]) -> str:
        fitting = [each for each, kind in self.kinds.items() if fits(kind)]
        if name in fitting:
            return str(name)
        columns = ", ".join(f"{each} ({_short(kind)})" for each, kind in self.kinds.items())
        if name is not None:
            fault = f"no column {name!r} that holds {what}s; its columns are {columns}"
            raise SourceError(fault, where=self.path, remedy=f"give another --data.{what}_column")
        found = [what] if what in fitting else [each for each in marked if each in fitting] or fitting
        if len(found) != 1:
            fault = f"which column holds the {what}s? its columns are {columns}"
            raise SourceError(fault, where=self.path, remedy=f"name one with --data.{what}_column")
        return found[0]

    def class_names(self, column: str) -> list[str]:
        """The names of the labels that the `datasets` library stores in the file's metadata; [] if there are none."""
        try:
            metadata = json.loads((self.source.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            return [str(name) for name in metadata["info"]["features"][column]["names"]]
        except (KeyError, TypeError, ValueError):
            return []

    # ------------------------------------------------------------------------------------------ rows
    def paths_and_labels(self, columns: Columns) -> Iterator[tuple[int, str, int | str | None]]:
        """(offset, path, label) of every row: the path is "" where there is none, the label None."""
        path = f"{columns.image}.path" if self.has_paths(columns) else ""
        for group in range(self.source.num_row_groups):
            wanted = [columns.label, path] if path else [columns.label]
            with self.arrow_errors():
                table = self.source.read_row_group(group, columns=wanted, use_threads=False)
                labels = table.column(columns.label).to_pylist()
                images = table.column(columns.image).to_pylist() if path else [None] * len(labels)
            for row, (image, value) in enumerate(zip(images, labels, strict=True)):
                yield group << _ROW_BITS | row, os.fsdecode((image or {}).get("path") or ""), self._label(value, row)

    def _label(self, value: Any, row: int) -> int | str | None:
        """A label as a number from 0 on, or text; None for what means no label: null, NaN, "", a number below 0."""
        if value is None or value == "" or value != value:
            return None
        if isinstance(value, str):
            return value
        if value in (float("inf"), float("-inf")) or int(value) != value:
            raise SourceError(f"label {value} in row {row} of its group is not a whole number", where=self.path)
        return int(value) if value >= 0 else None

    def has_paths(self, columns: Columns) -> bool:
        kind = self.kinds[columns.image]
        at = _field(kind, "path")
        return at >= 0 and (_holds_text(kind.field(at).type) or _holds_images(kind.field(at).type))  # or bytes

    def image(self, column: str, offset: int) -> bytes:
        """The image at an offset; fast if they are read in order."""
        group, row = offset >> _ROW_BITS, offset & ((1 << _ROW_BITS) - 1)
        if group != self._group or row < self._start:
            leaf = f"{column}.bytes" if _field(self.kinds[column], "bytes") >= 0 else column
            rows = _BATCH_ROWS if self.source.metadata.row_group(group).total_byte_size < _BATCH_BYTES else 1
            self._group, self._start, self._batch = group, 0, None
            self._batches = self.source.iter_batches(rows, row_groups=[group], columns=[leaf], use_threads=False)
        while self._batch is None or row >= self._start + len(self._batch):
            self._start += len(self._batch) if self._batch is not None else 0
            self._batch = None  # before the next one is made
            with self.arrow_errors():
                self._batch = next(self._batches).column(0)
        value = self._batch[row - self._start].as_py()
        return bytes((value.get("bytes") if isinstance(value, dict) else value) or b"")


def digest(path: Path) -> str:
    """SHA-256 over the footer, which has offset and size of every row group, and over bytes evenly spaced in between.

    It depends only on contents: a copy has the same one. Whole shards are not read: ImageNet's would take minutes.
    """
    total = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(-8, os.SEEK_END) + 8
        footer = min(int.from_bytes(file.read(4), "little") + 8, size)
        for spot in [size - footer, *(spot * size // _SPOTS for spot in range(_SPOTS))]:
            file.seek(spot)
            total.update(file.read(footer if spot == size - footer else _SPOT_BYTES))
    return total.hexdigest()


# ---------------------------------------------------------------------------------------------- kinds of column
def _holds_images(kind: DataType) -> bool:
    from pyarrow import types

    if (at := _field(kind, "bytes")) >= 0:
        kind = kind.field(at).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_binary(kind)) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _holds_labels(kind: DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    numbers = (types.is_integer, types.is_floating, types.is_boolean)
    return _holds_text(kind) or any(is_kind(kind) for is_kind in numbers)


def _holds_text(kind: DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind)) or types.is_large_string(kind) or types.is_string_view(kind)


def _field(kind: DataType, name: str) -> int:
    """Which field of a struct has this name; -1 if none, or if it is no struct."""
    from pyarrow import types

    return int(kind.get_field_index(name)) if types.is_struct(kind) else -1


def _short(kind: DataType) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _use_frugal_allocator() -> None:
    """The best of arrow's allocators: reading ImageNet's row groups peaks at 118 MB with jemalloc, 197 by default."""
    import pyarrow

    if "jemalloc" in pyarrow.supported_memory_backends():
        pyarrow.set_memory_pool(pyarrow.jemalloc_memory_pool())
