"""The plan of a conversion: which betons are made from which split, and which of them exist already."""

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.beton.classes import are_wnids, may_be_imagenets, shortfalls
from data_tools.beton.format import PAGE_BYTES
from data_tools.beton.manifest import checksums_path, read_manifest
from data_tools.beton.writer import partial_path
from data_tools.common.errors import UserError
from data_tools.convert import journal
from data_tools.convert.config import WriteSpec
from data_tools.convert.transcode import StorageOptions
from data_tools.native import codec
from data_tools.sources.index import SPLITS, Index, SplitIndex

DEFAULT_CAPS = (160, 320, None)
# What a change of `source_state` means, by kind of source.
_CHANGES = {
    "archive": "its images have other contents or times of modification",
    "folder": "its files have other contents or times of modification",
    "parquet": "its shards have other contents",
}
_MAX_PAGE_BYTES = 64 << 20  # nobody trains on larger image files


class ConversionError(UserError, ValueError):
    """The conversion cannot continue; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBeton:
    """settings: what determines its bytes. done: whether it is complete."""

    path: Path
    cap: int | None
    settings: dict[str, Any]
    done: bool


@dataclass(frozen=True, slots=True, eq=False)
class ConversionPass:
    """One pass over a split and the betons that it writes, in the order of `storage.caps`. kept: others of the split,
    which are complete."""

    split_index: SplitIndex
    betons: tuple[PlannedBeton, ...]
    kept: tuple[Path, ...]
    storage: StorageOptions
    journal: Path

    @property
    def is_done(self) -> bool:
        return all(beton.done for beton in self.betons)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for an interrupted pass to continue: the betons, and where every image is."""
        places = hashlib.sha256(self.split_index.places.tobytes()).hexdigest()
        own = ("filter", "seekable", "originals", "page_bytes")
        shared = {key: value for key, value in self.betons[0].settings.items() if key not in (*own, "cap")}
        of_each = {f"{key} of {b.cap or 'full'}": b.settings[key] for b in self.betons for key in own}
        codecs = {name: versions()[name] for name in ("libjpeg", "pillow")}
        caps = [beton.cap or "full" for beton in self.betons]
        return {"betons": caps, "places": places, **codecs, **of_each, **shared}


def plan(index: Index, spec: WriteSpec) -> list[ConversionPass]:
    """Every pass, complete ones included. Raises ConversionError if a split is missing, or other betons are there."""
    _check_splits(index, spec.data.splits)
    _check_expected(index, spec)
    wanted = _wanted_caps(index, spec)
    passes = []
    for split_index in index.split_indexes:
        if split_index.cap is None:
            resized = {other.cap for other in index.split_indexes if other.split == split_index.split} - {None}
            caps = tuple(cap for cap in wanted if cap not in resized)
        else:
            caps = (split_index.cap,) if split_index.cap in wanted else ()
        if caps:
            passes.append(_plan_pass(split_index, caps, spec))
    if any(beton.settings["filter"] for each in passes for beton in each.betons):
        _check_filter_of_others(spec)
    return passes


def _check_filter_of_others(spec: WriteSpec) -> None:
    """ConversionError if the folder holds a beton that another filter made: a training would read both."""
    for beton in sorted(spec.data.out.glob("*.beton")):
        found = None
        with contextlib.suppress(UserError):  # not one of ours, or damaged: no concern of this conversion
            found = read_manifest(beton).filter
        if found not in (None, spec.write.filter):
            what = f"made with filter {found}, and this conversion has {spec.write.filter}"
            raise ConversionError(what, where=beton, remedy=f"give --write.filter={found}, or another --data.out")


def remove_finished_journals(index: Index, spec: WriteSpec) -> None:
    """Remove journals whose betons are all there: of conversions that were killed after the last one was renamed."""
    for split_index in index.split_indexes:
        path = _journal_path(split_index, spec)
        if identity := journal.peek(path):
            betons = [_beton_path(split_index, cap, spec) for cap in identity["betons"]]
            if all(beton.exists() for beton in betons):
                remove_journal(path, betons)


def remove_journal(journal_path: Path, betons: Iterable[Path]) -> None:
    """Remove the journal of complete betons, after what was left of their `.partial` files."""
    for beton in betons:
        partial_path(beton).unlink(missing_ok=True)
    journal_path.unlink()


def _journal_path(split_index: SplitIndex, spec: WriteSpec) -> Path:
    name = split_index.split if split_index.cap is None else f"{split_index.split}_{split_index.cap}"
    return spec.data.out / f"{name}.journal"


def _beton_path(split_index: SplitIndex, cap: int | str | None, spec: WriteSpec) -> Path:
    return spec.data.out / f"{split_index.split}_{cap or 'full'}.beton"


def _plan_pass(split_index: SplitIndex, caps: tuple[int | None, ...], spec: WriteSpec) -> ConversionPass:
    journal_path = _journal_path(split_index, spec)
    betons = {cap: _plan_beton(split_index, cap, spec) for cap in caps}
    if missing := tuple(cap for cap in caps if not betons[cap].done):
        # A pass that was interrupted while its betons were renamed must continue with the same betons.
        interrupted = journal.peek(journal_path) or {"betons": ()}
        earlier = tuple(None if cap == "full" else cap for cap in interrupted["betons"])
        caps = earlier if set(missing) <= set(earlier) <= set(caps) else missing
    storage = StorageOptions(
        # Resized sources are stored as they are, so no cap applies.
        caps=caps if split_index.cap is None else (None,),
        side=spec.data.side,
        filter=spec.write.filter,
        quality=spec.write.quality,
        seekable=spec.write.seekable,
        keep=split_index.cap is not None or spec.write.full == "original",
        raw_share=spec.write.raw,
        seed=spec.write.seed,
        page_bytes=tuple(betons[cap].settings["page_bytes"] for cap in caps),
    )
    kept = tuple(beton.path for cap, beton in betons.items() if cap not in caps)
    return ConversionPass(split_index, tuple(betons[cap] for cap in caps), kept, storage, journal_path)


def _plan_beton(split_index: SplitIndex, cap: int | None, spec: WriteSpec) -> PlannedBeton:
    path, settings = _beton_path(split_index, cap, spec), _settings(split_index, cap, spec)
    return PlannedBeton(path, cap, settings, is_complete(path, settings))


def _settings(split_index: SplitIndex, cap: int | None, spec: WriteSpec) -> dict[str, Any]:
    """The fields of the manifest that determine a beton's bytes."""
    capped = cap is not None and split_index.cap is None
    originals = split_index.cap is not None or (cap is None and spec.write.full == "original")
    return {
        "split": split_index.split,
        "cap": cap,
        "side": spec.data.side,
        "filter": spec.write.filter if capped else None,
        "quality": spec.write.quality,
        "seekable": spec.write.seekable and capped,
        "mode": spec.write.mode,
        "raw_share": spec.write.raw,
        "seed": spec.write.seed,
        "originals": originals,
        "page_bytes": _page_bytes(split_index, cap),
        "source_digest": split_index.digest(),
        "source_state": split_index.state,
    }


def _page_bytes(split_index: SplitIndex, cap: int | None) -> int:
    """FFCV's 8 MiB, or more if the source's own files are stored and one would not fit."""
    if cap is not None and split_index.cap is None:
        return PAGE_BYTES
    longest = min(int(split_index.places["length"].max()), _MAX_PAGE_BYTES)
    return max(PAGE_BYTES, 1 << max(longest - 1, 0).bit_length())


def is_complete(beton: Path, settings: dict[str, Any]) -> bool:
    """Whether the beton and its files exist, with these settings. Raises ConversionError if it has others."""
    if not beton.exists():
        return False
    try:
        manifest = read_manifest(beton)
    except UserError as error:
        raise ConversionError(error.fault, remedy=f"remove {beton}, and run this command again") from None
    for key, value in settings.items():
        found = getattr(manifest, key)
        if key == "source_state":
            changed = [kind for kind in found.keys() & value.keys() if found[kind] != value[kind]]
            what = f"before the source changed ({_CHANGES[changed[0]]})" if changed else ""
        elif key == "source_digest":
            what = "from another source" if found != value else ""
        else:
            what = f"with {key} {found}, not {value}" if found != value else ""
        if what:
            raise ConversionError(
                f"already exists, made {what}", where=beton, remedy="remove it or give another --data.out"
            )
    return checksums_path(beton).exists()  # else it is written again


def _wanted_caps(index: Index, spec: WriteSpec) -> tuple[int | None, ...]:
    resized = sorted({split_index.cap for split_index in index.split_indexes if split_index.cap is not None})
    originals = any(split_index.cap is None for split_index in index.split_indexes)
    if spec.data.cap_pixels is None:
        return DEFAULT_CAPS if originals else tuple(resized)
    for cap in spec.data.cap_pixels:
        if not originals and cap not in resized:
            has = ",".join(map(str, resized))
            what = f"no images for {cap or 'full'} in the source; it has {has}"
            raise ConversionError(what, where="--data.caps")
    return spec.data.cap_pixels


def _check_expected(index: Index, spec: WriteSpec) -> None:
    is_expected = may_be_imagenets(index.classes) if spec.data.expect is None else spec.data.expect == "imagenet1k"
    if is_expected and (faults := shortfalls(index.classes, index.images(), spec.data.splits or SPLITS)):
        what = f"not ImageNet-1k: {'; '.join(faults)}"
        raise ConversionError(what, remedy="if that is intended, give --data.expect=any")
    if spec.data.expect is None and not is_expected and len(index.classes) == 1:  # folders that are no classes
        what = f"all images are of one class, {index.classes[0]}"
        raise ConversionError(what, remedy="sort them into classes; if one is intended, give --data.expect=any")


def _check_splits(index: Index, wanted: tuple[str, ...] | None) -> None:
    """Each split has images at each size; unless the splits are named, the classes of both are the same, or wnids."""
    caps = {part.cap for part in index.split_indexes}
    for split in wanted or SPLITS:
        found = {part.cap for part in index.split_indexes if part.split == split}
        missing = set() if None in found else caps - found
        if missing:
            px = min(cap or 0 for cap in missing)
            size = f" at {px} px" if found and px else ""
            several = len(wanted or SPLITS) > 1
            remedy = f"--data.splits={_other(split)} converts the rest" if several else "give a source that has them"
            raise ConversionError(f"no {split} images{size} in the source", remedy=remedy)
    if wanted is None and (difference := class_difference(index)) and not are_wnids(index.classes):
        raise ConversionError(
            difference, remedy="--data.splits=train converts only train, --data.splits=train,val both as they are"
        )


def class_difference(index: Index) -> str:
    """How the classes of train and val differ; empty if not. A name may be spelled in two ways, a wnid is not."""
    classes = {part.split: set(np.unique(part.labels).tolist()) for part in index.split_indexes}
    only = [
        f"{len(labels)} only in {split}, e.g. {index.classes[min(labels)]}"
        for split in SPLITS
        if len(classes) > 1 and (labels := classes[split] - classes[_other(split)])
    ]
    return f"the classes of train and val differ: {'; '.join(only)}" if only else ""


def _other(split: str) -> str:
    return "val" if split == "train" else "train"


def versions() -> dict[str, str]:
    """Versions of what the bytes of a beton may depend on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": importlib.metadata.version("pillow"),
        "libjpeg": codec.libjpeg_version(),
        "ffcv": importlib.metadata.version("ffcv"),
    }
