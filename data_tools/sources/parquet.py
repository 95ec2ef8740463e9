"""Hugging Face parquet shards: `image: {bytes, path}` and `label`, as in the hub's image data sets.

Needs pyarrow (the extra `parquet`). Indexing reads paths and labels only. The bytes are in compressed pages, so rows
are read and written in file order; the sample order is the same as for every source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.sources.tar import SourceError

if TYPE_CHECKING:
    from data_tools.sources.index import IndexBuilder

_SPLIT = re.compile(r"(train|validation|val|test)(?![a-z])")
_SPLITS = {"train": "train", "val": "val", "validation": "val"}
# ImageNet on the hub carries the wnid in the file's name: n01440764_10026_n01440764.JPEG
_WITH_WNID = re.compile(r"(?P<stem>.+)_(?P<wnid>n\d{8})(?P<suffix>\.\w+)")
_TRAIN_NAME = re.compile(r"(?P<wnid>n\d{8})_\d+\.\w+")
_ROW_BITS = 32  # an offset is (row group, row)


@dataclass(frozen=True, slots=True)
class _Row:
    split: str
    file: int
    offset: int
    name: str
    label: int


def read(builder: IndexBuilder, shards: list[Path]) -> None:
    """Index these shards. Raises SourceError for a damaged shard, or one whose split or labels are unclear."""
    rows: list[_Row] = []
    wnids: dict[int, str] = {}
    names: list[str] = []
    for shard in shards:
        split = _split_of(shard)
        if split is None:
            builder.ignore(str(shard))
            continue
        source = _open(shard)
        names = names or _class_names(source)
        file = builder.file("parquet", shard)
        for offset, path, label in _paths_and_labels(shard, source):
            name, wnid = _name_and_wnid(path or f"{shard.stem}_{offset:012d}")
            if wnid and wnids.setdefault(label, wnid) != wnid:
                raise SourceError(
                    f"label {label} is {wnids[label]} and {wnid}", where=shard, remedy="are the shards of one set?"
                )
            rows.append(_Row(split, file, offset, name, label))
    width = len(str(max((row.label for row in rows), default=0)))
    for row in rows:
        # A class is named as in ImageNet if the file names say how, else as the data set does, else by its number.
        default = names[row.label] if row.label < len(names) else f"{row.label:0{width}d}"
        name = wnids.get(row.label, default).replace("/", "_")
        builder.add(row.split, None, name, row.name, row.file, row.offset, 0)


def _open(shard: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        remedy = "make env EXTRAS=parquet, or elsewhere pip install 'pyarrow>=17'"
        raise SourceError("parquet needs pyarrow", where=shard, remedy=remedy) from None
    try:
        return parquet.ParquetFile(shard, pre_buffer=False, buffer_size=1 << 20)
    except (ArrowException, OSError, ValueError) as error:
        raise SourceError(f"not a whole parquet file ({error})", where=shard, remedy="download it again") from None


def _split_of(shard: Path) -> str | None:
    """The split by the shard's name (train-00000-of-00294.parquet) or folder; None for a test set, without labels."""
    match = _SPLIT.match(shard.name) or _SPLIT.fullmatch(shard.parent.name)
    if match is None:
        raise SourceError("of which split? name it train-*.parquet or validation-*.parquet", where=shard)
    return _SPLITS.get(match[1])


def _class_names(source: Any) -> list[str]:
    """The names that the `datasets` library stores in the file's metadata; [] if there are none."""
    try:
        metadata = json.loads((source.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        return [str(name) for name in metadata["info"]["features"]["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _paths_and_labels(shard: Path, source: Any) -> Iterator[tuple[int, str | None, int]]:
    columns = set(source.schema_arrow.names)
    if not {"image", "label"} <= columns:
        raise SourceError(f"its columns are {', '.join(sorted(columns))}", where=shard, remedy="wanted image and label")
    for group in range(source.num_row_groups):
        table = source.read_row_group(group, columns=["image.path", "label"], use_threads=False)
        paths = table.column("image").combine_chunks().field("path").to_pylist()
        for row, (path, label) in enumerate(zip(paths, table.column("label").to_pylist(), strict=True)):
            if label is None or label < 0:
                raise SourceError(f"row {row} of group {group} has no label", where=shard)
            yield group << _ROW_BITS | row, path, int(label)


def _name_and_wnid(path: str) -> tuple[str, str]:
    """The file's name as in the official archives, and its wnid if the name contains one."""
    name = path.rsplit("/", 1)[-1]
    if match := _WITH_WNID.fullmatch(name):
        return match["stem"] + match["suffix"], match["wnid"]
    match = _TRAIN_NAME.fullmatch(name)
    return name, match["wnid"] if match else ""


def group_of(offset: int) -> int:
    return offset >> _ROW_BITS


class Rows:
    """Images of one shard by offset; fast if read in order."""

    def __init__(self, path: str) -> None:
        self._source = _open(Path(path))
        self._group, self._next = -1, 0
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._start = 0

    def image(self, offset: int) -> bytes:
        group, row = group_of(offset), offset & ((1 << _ROW_BITS) - 1)
        if group != self._group or row < self._start:
            self._group, self._start, self._batch = group, 0, None
            self._batches = self._source.iter_batches(
                batch_size=32, row_groups=[group], columns=["image.bytes"], use_threads=False
            )
        while self._batch is None or row >= self._start + len(self._batch):
            self._start += len(self._batch) if self._batch is not None else 0
            self._batch = next(self._batches).column(0).field("bytes")
        value = self._batch[row - self._start].as_py()
        return bytes(value or b"")
