"""Index the sources from headers alone: every image of every split, in one order, with its label and location.

Sources are recognised by content: sorted tars and folders (`.../{train,validation|val}/<class>/<file>`), tars and
folders of resized images (`...-sz/{160,320,...}/{train,validation}/<class>/<file>`), the official ILSVRC archives
and Hugging Face parquet. Nothing is extracted: an image is (file, offset, length).

Classes are sorted by name (of parquet without wnids by label) and images by (class, file name), so the order does not
depend on the kind of source.
Other files (a README, a hidden file) are counted and reported as ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.errors import MissingFileError
from data_tools.common.names import from_path
from data_tools.sources.image_folder import read_folder, read_tar
from data_tools.sources.index import Index, IndexBuilder
from data_tools.sources.tar import BLOCK, SourceError, looks_like_tar


def read_index(paths: Sequence[Path], *, image_column: str | None = None, label_column: str | None = None) -> Index:
    """The index of all sources together. Raises MissingFileError or SourceError, naming source and member.

    image_column, label_column: of parquet; None: the unmistakable ones.
    """
    from data_tools.sources import ilsvrc

    builder = IndexBuilder()
    devkit = None
    val_archives = []  # read last, since they need the devkit
    parquet_sources = []  # read together, since a label is one class in all of them
    for path in paths:
        if not path.exists():
            raise MissingFileError("no such source", where=path, remedy="--data.source takes tars, folders and parquet")
        kind = recognise(path)
        if kind == "devkit":
            devkit = ilsvrc.read_devkit(path)
        elif kind == "ilsvrc val":
            val_archives.append(path)
        elif kind == "parquet":
            parquet_sources.append(path)
        else:
            _READERS[kind](builder, path)
        if kind not in ("folder", "parquet"):
            builder.sources.append(Source(name=from_path(path.name), bytes=path.stat().st_size))
    for path in val_archives:
        ilsvrc.read_val(builder, path, devkit)
    _read_parquet(builder, parquet_sources, image_column, label_column)
    if not builder.rows:
        _check_columns(paths, image_column, label_column)
        names = ", ".join(str(path) for path in paths)
        raise SourceError(f"no images at .../{{train,val}}/<class>/<file>{_example(builder)}", where=names)
    return builder.index()


def _example(builder: IndexBuilder) -> str:
    return (
        f"; found {builder.ignored_example}" if builder.ignored else "".join(f"; {line}" for line in builder.left_out)
    )


def recognise(path: Path) -> str:
    """The kind of a source, by its content; its name does not matter."""
    from data_tools.sources import ilsvrc

    if path.is_dir():
        from data_tools.sources import parquet_index

        return "parquet" if parquet_index.holds_shards(path) else "folder"
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if start.startswith(b"\x1f\x8b"):
        if ilsvrc.is_devkit(path):
            return "devkit"
        raise SourceError("compressed with gzip, so it cannot be read in place", where=path, remedy="gunzip it once")
    if start.startswith(b"PAR1"):
        return "parquet"
    if len(start) < BLOCK or not looks_like_tar(start):
        raise SourceError("neither a tar, a folder, parquet nor the ILSVRC devkit, or cut short", where=path)
    return ilsvrc.recognise(path) or "tar"


def _read_ilsvrc_train(builder: IndexBuilder, path: Path) -> None:
    from data_tools.sources import ilsvrc

    ilsvrc.read_train(builder, path)


def _read_parquet(builder: IndexBuilder, paths: Sequence[Path], image: str | None, label: str | None) -> None:
    from data_tools.sources import parquet_index

    if paths:
        parquet_index.read(builder, paths, image, label)
    elif column := image or label:
        option = "image" if image else "label"
        raise SourceError(f"{column}, but no source is parquet", where=f"--data.{option}_column", remedy="leave it out")


def _check_columns(paths: Sequence[Path], image: str | None, label: str | None) -> None:
    """Raise SourceError if the sources hold tables, but none with images."""
    from data_tools.sources import parquet_index

    for path in paths:
        for shard in parquet_index.shards_in(path) if path.is_dir() else ():
            parquet_index.check_columns(shard, image, label)


_READERS = {
    "tar": read_tar,
    "folder": read_folder,
    "ilsvrc train": _read_ilsvrc_train,
}
