"""One parquet table of images: its columns, its labels and its rows. Needs pyarrow (the extra `parquet`).

An image is the bytes themselves, `{bytes, path}` as the Hugging Face hub has them, or a list of one of these; a label
is a number or a text, or a list of one. The bytes are in compressed pages, so rows are read in file order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.common.files import too_many_open_files
from data_tools.sources.tar import SourceError

if TYPE_CHECKING:
    from pyarrow import DataType

# The first of these names is used if the table has it, else the only one of the others that it has.
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "class_id", "class_label", "label_id", "target", "fine_label")
_ROW_BITS = 32  # an offset is (row group, row)
_BATCH_ROWS = 32
_SPOTS, _SPOT_BYTES = 16, 4096  # of a shard, read for its digest


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold the images and their labels."""

    image: str
    label: str


class Table:
    """An open shard, for use in a `with` block. Raises SourceError if the file is not one."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            remedy = "make env EXTRAS=parquet, or elsewhere pip install 'pyarrow>=17'"
            raise SourceError("parquet needs pyarrow", where=path, remedy=remedy) from None
        self.path = path
        try:
            self.source: Any = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (ArrowException, OSError, ValueError) as error:
            if limit := too_many_open_files(error, path):
                raise limit from None
            raise SourceError(
                f"not a complete parquet file ({error})", where=path, remedy="download it again"
            ) from None
        self.kinds: dict[str, DataType] = {field.name: field.type for field in self.source.schema_arrow}

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.source.close()

    # ------------------------------------------------------------------------------------------ columns
    def may_hold_images(self) -> bool:
        return any(map(_holds_images, self.kinds.values()))

    def columns(self, image: str | None = None, label: str | None = None) -> Columns:
        """The columns of these names, or the ones that are unmistakable. Raises SourceError, naming what there is."""
        structs = [
            name for name, kind in self.kinds.items() if _holds_images(kind) and hasattr(kind, "get_field_index")
        ]
        numbered = [name for name in self.kinds if self.class_names(name)]
        return Columns(
            self._column("image", image, IMAGE_COLUMNS, structs, _holds_images),
            self._column("label", label, LABEL_COLUMNS, numbered, _holds_labels),
        )

    def _column(
        self, what: str, name: str | None, usual: tuple[str, ...], marked: list[str], fits: Callable[[DataType], bool]
    ) -> str:
        columns = ", ".join(f"{each} ({_short(kind)})" for each, kind in self.kinds.items())
        option = f"--data.{what}_column"
        fitting = [each for each, kind in self.kinds.items() if fits(kind)]
        if name is not None:
            if name not in fitting:
                fault = f"no column {name!r} that holds {what}s; its columns are {columns}"
                raise SourceError(fault, where=self.path, remedy=f"give another {option}")
            return name
        if usual[0] in fitting:
            return usual[0]
        found = [each for each in fitting if each.lower() in usual] or [each for each in marked if each in fitting]
        if len(found) != 1:
            fault = f"which column holds the {what}s? its columns are {columns}"
            raise SourceError(fault, where=self.path, remedy=f"name one with {option}")
        return found[0]

    def class_names(self, column: str) -> list[str]:
        """The names of the labels that the `datasets` library stores in the file's metadata; [] if there are none."""
        try:
            metadata = json.loads((self.source.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            feature = metadata["info"]["features"][column]
            while "names" not in feature:  # of a list
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            return [str(name) for name in feature["names"]]
        except (KeyError, IndexError, TypeError, ValueError):
            return []

    # ------------------------------------------------------------------------------------------ rows
    def paths_and_labels(self, columns: Columns) -> Iterator[tuple[int, str, int | str | None]]:
        """(offset, path, label) of every row: the path is "" where there is none, the label None."""
        path = self._leaf(columns.image, "path")
        for group in range(self.source.num_row_groups):
            wanted = [columns.label, path] if path else [columns.label]
            table = self.source.read_row_group(group, columns=wanted, use_threads=False)
            labels = table.column(columns.label).to_pylist()
            paths = table.column(columns.image).to_pylist() if path else [None] * len(labels)
            for row, (image, label) in enumerate(zip(paths, labels, strict=True)):
                try:
                    yield group << _ROW_BITS | row, _text((_only(image) or {}).get("path")), _label(_only(label))
                except ValueError as error:
                    where = f"{self.path}: row {row} of group {group}"
                    raise SourceError(str(error), where=where) from None

    def has_paths(self, columns: Columns) -> bool:
        return bool(self._leaf(columns.image, "path"))

    def images(self, group: int, column: str) -> Iterator[Any]:
        """Batches of the image column of a row group."""
        leaf = self._leaf(column, "bytes") or column
        batches = self.source.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False)
        return (batch.column(0) for batch in batches)

    def _leaf(self, column: str, field: str) -> str:
        """The name by which pyarrow reads this field of a column, also where it is in a list; "" if there is none."""
        schema = self.source.schema
        leaves = (schema.column(at).path for at in range(len(schema.names)))
        return next((leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(f".{field}")), "")


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


# ---------------------------------------------------------------------------------------------- kinds and values
def _holds_images(kind: DataType) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_images(kind.field(at).type)
    return any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _holds_labels(kind: DataType) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    return any(
        is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_null, *texts)
    )


def _short(kind: DataType) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _only(value: Any) -> Any:
    """The value, or that of a list of one; None of an empty list."""
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise ValueError(f"{len(value)} values where one is wanted")
    return value[0] if value else None


def _text(path: str | bytes | None) -> str:
    return os.fsdecode(path or "")


def _label(value: Any) -> int | str | None:
    """A label as a number from 0 on, or text; None for what means no label: null, NaN, "", a number below 0."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str):
        return value
    if value in (float("inf"), float("-inf")) or int(value) != value:
        raise ValueError(f"label {value} is not a whole number")
    return int(value) if value >= 0 else None


# ---------------------------------------------------------------------------------------------- reading
def _use_frugal_allocator() -> None:
    """The best of arrow's allocators: reading ImageNet's row groups peaks at 118 MB with jemalloc, 197 by default."""
    import pyarrow

    if "jemalloc" in pyarrow.supported_memory_backends():
        pyarrow.set_memory_pool(pyarrow.jemalloc_memory_pool())


def group_of(offset: int) -> int:
    return offset >> _ROW_BITS


class Rows:
    """Images of one shard by offset; fast if read in order."""

    def __init__(self, path: str, column: str = "image") -> None:
        _use_frugal_allocator()
        self._table, self._column = Table(Path(path)), column
        self._group, self._start = -1, 0
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None

    def image(self, offset: int) -> bytes:
        """Raises SourceError if the row holds several images."""
        group, row = group_of(offset), offset & ((1 << _ROW_BITS) - 1)
        if group != self._group or row < self._start:
            self._group, self._start, self._batch = group, 0, None
            self._batches = self._table.images(group, self._column)
        while self._batch is None or row >= self._start + len(self._batch):
            self._start += len(self._batch) if self._batch is not None else 0
            self._batch = None  # before the next one is made
            self._batch = next(self._batches)
        value = self._batch[row - self._start].as_py()
        try:
            value = _only(value)
        except ValueError as error:
            raise SourceError(str(error), where=f"{self._table.path}: row {row} of group {group}") from None
        return bytes((value.get("bytes") if isinstance(value, dict) else value) or b"")

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self._table.close()
