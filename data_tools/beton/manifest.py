"""The manifest beside each beton: NAME.beton.json says what NAME.beton is and how it was made.

It is the same for two identical conversions: no time, no host, no path.
"""

import json
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_tools.beton.classes import classes_digest
from data_tools.common.errors import MissingFileError, UserError
from data_tools.common.files import write_atomically

MANIFEST_VERSION = 4
_READABLE_VERSIONS = (2, 3, 4)  # 2 has no source_state, 2 and 3 have no filter


class ManifestError(UserError, ValueError):
    """A manifest that is damaged, of another version or not of this beton."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One archive, folder or parquet shard that was read: its name below what was given, and its size."""

    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """An image that was left out (`--write.on_bad=skip`), as class/file, and why."""

    image: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A complete beton's identity, options and contents."""

    version: int
    beton: str  # its file name
    split: str  # train or val
    cap: int | None  # pixels of the capped side; None: as large as the source
    side: str  # which side is capped: shorter or longer
    filter: str | None = None  # what made the images smaller: area or lanczos; None: nothing did, or it is not known
    quality: int = 0  # of the JPEGs that were encoded; 0: it is not known
    seekable: bool = False  # whether they have a restart marker after every MCU, so that crops decode faster
    mode: str  # jpg, raw or proportion
    raw_share: float  # for proportion: the share of samples stored as pixels
    seed: int = 0  # of that choice
    originals: bool = False  # whether the source's own JPEG bytes were kept where they could be
    images: int
    bytes: int
    page_bytes: int
    modes: dict[str, int]  # how many samples are jpg and raw, and how many of the jpg are original bytes
    digest: str  # see data_tools.beton.format.beton_digest
    checksums_digest: str  # SHA-256 of NAME.beton.xxh64
    source_digest: str = ""  # of the ordered list of converted images; empty for an adopted file
    source_state: dict[str, str] = field(default_factory=dict)  # by kind of source, a digest of its contents
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    skipped: tuple[Skipped, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def classes_digest(self) -> str:
        return classes_digest(self.classes)


def manifest_path(beton: Path) -> Path:
    """NAME.beton.json."""
    return beton.with_name(beton.name + ".json")


def checksums_path(beton: Path) -> Path:
    """NAME.beton.xxh64: one little-endian uint64 a sample."""
    return beton.with_name(beton.name + ".xxh64")


def adopt_command(*betons: Path) -> str:
    """The remedy for betons without a manifest."""
    return f"run `python -m data_tools.adopt {shlex.join(map(str, betons))}`"


def again(manifest: Manifest, beton: Path) -> str:
    """The remedy for a beton that is not what its manifest says: both programs leave alone what is there."""
    if manifest.source_digest:
        return "copy it again, or remove it and run write_datasets.py again"
    # The name of a set is a link to the file that was adopted, as is that of its manifest.
    return f"copy it again, or remove {manifest_path(beton).resolve()} and {adopt_command(beton)}"


def unadopted(folder: Path) -> list[Path]:
    """The files in a folder that have the suffix of a beton, and no manifest."""
    files = sorted([*folder.glob("*.beton"), *folder.glob("*.ffcv")])
    return [path for path in files if not manifest_path(path).exists()]


def read_manifest(beton: Path) -> Manifest:
    """The manifest of a beton, whose size must match. Raises MissingFileError or ManifestError."""
    path = manifest_path(beton)
    if not beton.exists():
        raise MissingFileError("no beton here", where=beton, remedy="run write_datasets.py")
    if not path.exists():
        raise MissingFileError("no manifest beside the beton", where=path, remedy=adopt_command(beton))
    try:
        manifest = _from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        *older, newest = map(str, _READABLE_VERSIONS)
        what = f"not a manifest of version {', '.join(older)} or {newest} ({error})"
        remedy = "remove it, and run write_datasets.py or data_tools.adopt again"
        raise ManifestError(what, where=path, remedy=remedy) from None
    if (size := beton.stat().st_size) != manifest.bytes:
        what = f"{size} bytes, but its manifest says {manifest.bytes}"
        raise ManifestError(what, where=beton, remedy=again(manifest, beton))
    return manifest


def _from_dict(content: Any) -> Manifest:
    if not isinstance(content, dict) or content.get("version") not in _READABLE_VERSIONS:
        raise ValueError(f"version {content.get('version') if isinstance(content, dict) else None!r}")
    if content["version"] == 2:
        content.setdefault("source_state", {})
    if content["version"] < 4:
        content.setdefault("filter", "area" if content.get("cap") and not content.get("originals") else None)
    names = {each.name for each in fields(Manifest)}
    if set(content) != names:
        raise ValueError(f"wrong keys: {', '.join(sorted(set(content) ^ names))}")
    content["classes"] = tuple(str(name) for name in content["classes"])
    content["sources"] = tuple(Source(**source) for source in content["sources"])
    content["skipped"] = tuple(Skipped(**image) for image in content["skipped"])
    for key in ("images", "bytes", "page_bytes", "quality"):
        if not isinstance(content[key], int) or content[key] < 0:
            raise ValueError(f"{key} is {content[key]!r}")
    return Manifest(**content)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest atomically. A byte of a name that is not UTF-8 is written as a lone surrogate is in JSON."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
