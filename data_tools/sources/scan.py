"""Index the sources from headers alone: every image of every split, in one order, with its label and location.

Sources are recognised by content: tars and folders in the layouts of `layouts`, also those of resized images
(`...-sz/{160,320,...}/{train,validation}/<class>/<file>`), the official ILSVRC archives, and Hugging Face parquet.
Nothing is extracted: an image is (file, offset, length).

Classes are sorted by name (of parquet without wnids by label) and images by (class, file name), so the order does not
depend on the kind of source.
Other files (a README, a hidden file) are counted and reported as ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.errors import MissingFileError
from data_tools.common.file_kinds import START_BYTES, archive_kind, picture_kind, special_kind
from data_tools.common.files import is_address
from data_tools.common.names import from_path
from data_tools.sources import ilsvrc
from data_tools.sources.image_folder import read_folder, read_tar
from data_tools.sources.index import SPLITS, Index, IndexBuilder
from data_tools.sources.layouts import SPLIT_FOLDERS, Tree
from data_tools.sources.tar import SourceError, looks_like_tar


def read_index(
    paths: Sequence[Path],
    *,
    splits: Sequence[str] = SPLITS,
    follow_links: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Index:
    """The index of all sources together, of these splits.

    follow_links: whether links to images in a folder are followed. image_column, label_column: of parquet; None: the
    unmistakable ones. Raises MissingFileError or SourceError, naming source and member.
    """
    builder = IndexBuilder(splits)
    trees: list[Tree] = []
    label_files: dict[str, bytes] = {}
    parquet_sources = []  # read together, since a label is one class in all of them
    _check_paths(paths)
    for path in paths:
        match recognise(path):
            case "folder":
                trees.append(read_folder(builder, path, follow_links))
            case "tar":
                trees.append(read_tar(builder, path))
            case "parquet":
                parquet_sources.append(path)
            case "ilsvrc train":
                ilsvrc.read_train(builder, path)
                builder.sources.append(Source(name=from_path(path.name), bytes=path.stat().st_size))
            case "devkit":
                label_files |= ilsvrc.read_devkit(path)
                builder.sources.append(Source(name=from_path(path.name), bytes=path.stat().st_size))
            case "kaggle labels":
                label_files[ilsvrc.KAGGLE_LABELS] = path.read_bytes()
                builder.sources.append(Source(name=from_path(path.name), bytes=path.stat().st_size))
    for tree in trees:
        label_files |= tree.label_files
    _read_parquet(builder, parquet_sources, image_column, label_column)
    names = ", ".join(str(path) for path in paths)
    _add_trees(builder, trees, ilsvrc.val_labels(label_files, names))
    if not builder.rows:
        _check_columns(paths, image_column, label_column)
        limit = f" that --data.splits={','.join(splits)} takes" if len(splits) == 1 else ""
        what = f"no images at .../{{train,val}}/<class>/<file>{limit}{_example(builder)}"
        raise SourceError(what, where=names, remedy="docs/CONVERSION.md lists the layouts that work")
    return builder.index()


def _add_trees(builder: IndexBuilder, trees: Sequence[Tree], labels: dict[str, str]) -> None:
    """Add what the tars and folders hold. `test` stands for `val` where there is no other."""
    staged = [(tree, each) for tree in trees for each in tree.split_folders(labels)]
    folders = {each.split_folder for _, each in staged}.union(*(tree.unlabelled for tree in trees))
    has_val = any(split == "val" for split, _ in builder.rows) or not folders <= {"train", "test"}
    for tree, each in staged:
        if each.split_folder == "test" and has_val:
            tree.ignore(each.example, each.images.count())
        elif each.split in builder.splits:
            if each.fault:
                raise each.fault
            if each.split_folder == "test":
                builder.notes.append(f"{tree.path}: its test images are taken for val")
            builder.merge(each.images)
    for tree in trees:
        if tree.groups or not tree.label_files:  # of a devkit, nothing else is wanted
            builder.ignore(tree.ignored_example, tree.ignored)
        for folder, fault in tree.unlabelled.items():
            split = SPLIT_FOLDERS[folder]
            if split in builder.splits and not any(split == found for found, _ in builder.rows):
                raise fault


def _check_paths(paths: Sequence[Path]) -> None:
    for at, path in enumerate(paths):
        if is_address(path):
            raise MissingFileError("an address", where=path, remedy="nothing is downloaded; give a path")
        if not path.exists():
            raise MissingFileError("no such source", where=path, remedy="--data.source takes tars, folders and parquet")
        if any(path.samefile(other) for other in paths[:at]):
            raise SourceError("given twice", where=path, remedy="give each source once")


def _example(builder: IndexBuilder) -> str:
    return (
        f"; found {builder.ignored_example}" if builder.ignored else "".join(f"; {line}" for line in builder.left_out)
    )


def recognise(path: Path) -> str:
    """The kind of a source, by its content; its name does not matter."""
    if path.is_dir():
        from data_tools.sources import parquet_index

        return "parquet" if parquet_index.holds_shards(path) else "folder"
    if kind := special_kind(path.stat().st_mode):
        raise SourceError(f"{kind}, which cannot be read in place", where=path, remedy="write it to a file first")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if looks_like_tar(start):
        return "ilsvrc train" if ilsvrc.is_train_archive(path) else "tar"
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(ilsvrc.KAGGLE_START):
        return "kaggle labels"
    kind, program = archive_kind(start)
    if kind and ilsvrc.is_devkit(path):
        return "devkit"
    if kind:
        raise SourceError(f"{kind}, so it cannot be read in place", where=path, remedy=f"{program} it once")
    if kind := picture_kind(start):
        raise SourceError(f"{kind}, not a data set", where=path, remedy="give the folder of train/ and val/, or a tar")
    raise SourceError("neither a tar, a folder, parquet nor the ILSVRC devkit, or it is truncated", where=path)


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
