"""Index the sources from headers alone: every image of every split, in one order, with its label and location.

A source is recognised by its content. Tars and folders are listed (`listing`), and from the paths
alone follows where each image belongs (`layouts`); parquet says it itself (`parquet_index`).

Classes are sorted by name (of parquet without wnids by label) and images by (class, file name), so the order does not
depend on the kind of source. Whatever is left out is counted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.errors import MissingFileError, UserError
from data_tools.common.file_kinds import START_BYTES, archive_kind, picture_kind, special_kind
from data_tools.common.files import is_address
from data_tools.common.names import from_path, name_of
from data_tools.sources import ilsvrc
from data_tools.sources.folder import list_folder
from data_tools.sources.index import SPLITS, Index, IndexBuilder
from data_tools.sources.layouts import OUT_OF_PLACE, Folders, SourceLayout, classify, is_numbered
from data_tools.sources.listing import TINY_LABELS, Listing, list_tar
from data_tools.sources.tar import SourceError, looks_like_tar

OF_TEST = "images of the test split"


def read_index(
    paths: Sequence[Path],
    *,
    splits: Sequence[str] = SPLITS,
    follow_links: bool = False,
    max_left_out: float = 0.01,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Index:
    """The index of all sources together, of these splits.

    follow_links: whether links to images in a folder are followed. max_left_out: the share of pictures that may be in
    no folder of a split and class. image_column, label_column: of parquet; None: the only ones that can be meant.
    Raises MissingFileError or SourceError, naming source and member.
    """
    builder = IndexBuilder(splits)
    listings: list[Listing] = []
    label_files: dict[str, bytes] = {}
    parquet_sources = []  # read together, since a label is one class in all of them
    _check_paths(paths)
    for path in paths:
        kind, size = recognise(path), path.stat().st_size
        if kind == "parquet":
            parquet_sources.append(path)
            continue
        if kind == "folder":
            listings.append(list_folder(builder.files, path, follow_links))
            size = listings[-1].bytes()
        elif kind == "tar":
            listings.append(list_tar(builder.files, path))
        else:
            label_files |= ilsvrc.read_labels(path)
        builder.sources.append(Source(name=from_path((path.resolve() if path.is_dir() else path).name), bytes=size))
    _read_parquet(builder, parquet_sources, image_column, label_column)
    for listing in listings:
        label_files |= {folders[-1]: content for folders, content in listing.label_files.items()}
    names = ", ".join(str(path) for path in paths)
    _add_listings(builder, listings, ilsvrc.val_labels(label_files, names))
    if not builder.rows:
        limit = f" that --data.splits={','.join(splits)} takes" if len(splits) == 1 else ""
        what = "; ".join((f"no images at .../{{train,val}}/<class>/<file>{limit}", *builder.left_out_lines()))
        raise SourceError(what, where=names, remedy="docs/CONVERSION.md lists the layouts that work")
    _check_left_out(builder, max_left_out)
    return builder.index()


# ---------------------------------------------------------------------------------------------- tars and folders
def _add_listings(builder: IndexBuilder, listings: Sequence[Listing], labels: Mapping[str, str]) -> None:
    """Add what tars and folders hold. `test` stands for `val` where there is no other."""
    layouts = [(listing, _layout(listing)) for listing in listings]
    found = {split for split, _ in builder.rows}
    for _, layout in layouts:
        found |= {place.split for place in layout.places.values()} | layout.faults.keys()
    split_of = {"train": "train"} | ({"val": "val"} if "val" in found else {"test": "val"})
    wanted = [source for source, split in split_of.items() if split in builder.splits]
    for listing, layout in layouts:
        _check_faults(listing, layout, wanted)
        if "test" in wanted and any(place.split == "test" for place in layout.places.values()):
            builder.notes.append(f"{listing.path}: its test images are used for val")
        for path, place in layout.places.items():
            if place.split not in split_of:
                _leave_out(builder, OF_TEST, listing, path)
            elif place.split not in wanted:
                continue
            elif place.split in layout.unlabelled:
                _leave_out(builder, OUT_OF_PLACE, listing, path)
            elif place.label is None:
                _add_by_name(builder, split_of[place.split], place.cap, listing, path, labels)
            else:
                images = listing.pictures[path]
                builder.take(split_of[place.split], place.cap, place.label, images, "/".join(place.below))
        if layout.places or not listing.label_files:  # of a devkit, nothing else is wanted
            for kind, (count, example) in listing.left_out.items():
                builder.leave_out(kind, example, count)
            for path, why in layout.left_out.items():
                _leave_out(builder, why, listing, path)
    for source in wanted:
        faults = [
            _located(listing, layout.unlabelled[source]) for listing, layout in layouts if source in layout.unlabelled
        ]
        if faults and not any(split == split_of[source] for split, _ in builder.rows):
            raise faults[0]


def _layout(listing: Listing) -> SourceLayout:
    names = {path: images.names for path, images in listing.pictures.items()}
    return classify(names, listing.roots, {path[:-1] for path in listing.label_files if path[-1] == TINY_LABELS})


def _check_faults(listing: Listing, layout: SourceLayout, splits: Sequence[str]) -> None:
    """Raise what keeps the pictures of these splits from being taken."""
    for path, place in layout.places.items():
        if place.split in splits and path in listing.faults:
            raise listing.faults[path]
    for split in splits:
        if split in layout.faults:
            raise _located(listing, layout.faults[split])


def _located(listing: Listing, fault: UserError) -> SourceError:
    where = f"{listing.path}: {fault.where}" if fault.where else listing.path
    return SourceError(fault.what, where=where, remedy=fault.remedy)


def _leave_out(builder: IndexBuilder, reason: str, listing: Listing, path: Folders) -> None:
    names = listing.pictures[path].names
    builder.leave_out(reason, _example(listing, path, *names[:1]), len(names))


def _example(listing: Listing, path: Folders, name: bytes = b"") -> str:
    inside = "/".join((*path, name_of(name)))
    return f"{listing.path}/{inside}" if listing.path.is_dir() else f"{listing.path}: {inside}"


def _add_by_name(
    builder: IndexBuilder, split: str, cap: int | None, listing: Listing, path: Folders, labels: Mapping[str, str]
) -> None:
    """Add the pictures of a folder, whose labels are looked up by their names."""
    annotations = listing.label_files.get((*path[:-1], TINY_LABELS)) if path else None
    if annotations is not None:
        rows = (line.split("\t") for line in annotations.decode("utf-8", "surrogateescape").splitlines())
        labels = {_stem(row[0]): row[1] for row in rows if len(row) > 1}
        missing = sorted(labels.keys() - {_stem(name_of(raw)) for raw in listing.pictures[path].names})
        builder.leave_out("labels without an image", "".join(missing[:1]), len(missing))
    if not labels:
        raise SourceError(
            "its validation images have no labels",
            where=listing.path,
            remedy="add ILSVRC2012_devkit_t12.tar.gz or Kaggle's LOC_val_solution.csv to --data.source",
        )
    images = listing.pictures[path]
    for at, raw in enumerate(images.names):
        label = labels.get(_stem(name_of(raw)))
        if label is not None:
            row = (images.files[at], images.offsets[at], images.lengths[at], images.modified[at])
            builder.images(split, cap, label).add(raw, *row)
        elif annotations is None and not is_numbered([raw]):
            builder.leave_out(OUT_OF_PLACE, _example(listing, path, raw))
        else:
            what = f"no label for {name_of(raw)} among {len(labels):,} labels"
            raise SourceError(what, where=listing.path)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _check_left_out(builder: IndexBuilder, most: float) -> None:
    """Raise SourceError if more than this share of the pictures is in no folder of a split and class."""
    count, example = builder.left_out.get(OUT_OF_PLACE, (0, ""))
    total = count + sum(len(images.names) for classes in builder.rows.values() for images in classes.values())
    if count > most * total:
        raise SourceError(
            f"images outside of .../{{train,val}}/<class>/: {count:,} of {total:,}",
            where=example,
            remedy="move them, or leave them out with --data.max_left_out=1",
        )


# ---------------------------------------------------------------------------------------------- kinds of source
def _check_paths(paths: Sequence[Path]) -> None:
    for at, path in enumerate(paths):
        if is_address(path):
            raise MissingFileError("an address", where=path, remedy="nothing is downloaded; give a path")
        if not path.exists():
            raise MissingFileError("no such source", where=path, remedy="--data.source takes tars, folders and parquet")
        if any(path.samefile(other) for other in paths[:at]):
            raise SourceError("given twice", where=path, remedy="give each source once")


def recognise(path: Path) -> str:
    """The kind of a source, by its content; its name does not matter."""
    if path.is_dir():
        from data_tools.sources.parquet_index import holds_shards

        return "parquet" if holds_shards(path) else "folder"
    if kind := special_kind(path.stat().st_mode):
        raise SourceError(f"{kind}, which cannot be read in place", where=path, remedy="write it to a file first")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if looks_like_tar(start):
        return "tar"
    if start.startswith(b"PAR1"):
        return "parquet"
    if ilsvrc.read_labels(path):
        return "labels"
    kind, program = archive_kind(start)
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
