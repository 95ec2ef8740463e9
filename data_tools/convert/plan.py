"""What a conversion will write: which betons come of which stream, and which of them are there already."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.beton import classes as labels
from data_tools.beton import format as layout
from data_tools.beton import manifest
from data_tools.convert import journal
from data_tools.convert.config import WriteSpec
from data_tools.convert.transcode import Recipe
from data_tools.native import codec as native
from data_tools.sources.index import Index, Stream

DEFAULT_CAPS = (160, 320, None)
_MOST_PAGE_BYTES = 64 << 20  # a larger file is no picture that anybody trains on


class ConversionError(ValueError):
    """The conversion cannot go on; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One reading of one stream and the betons it becomes, in the order of `recipe.caps`.

    settings: what decides their bytes, by beton. done: which of them are complete.
    """

    stream: Stream
    caps: tuple[int | None, ...]
    recipe: Recipe
    paths: tuple[Path, ...]
    settings: tuple[dict[str, Any], ...]
    done: tuple[bool, ...]
    journal: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for an interrupted pass to go on: the betons, and every byte of the places."""
        places = hashlib.sha256(self.stream.places.tobytes()).hexdigest()
        caps = ["full" if cap is None else cap for cap in self.caps]
        codecs = {name: versions()[name] for name in ("libjpeg", "pillow")}
        own = ("cap", "seekable", "originals", "page_bytes")
        shared = {key: value for key, value in self.settings[0].items() if key not in own}
        each = [[one[key] for key in own] for one in self.settings]
        return {"betons": caps, "places": places, "codecs": codecs, "each": each, **shared}


def plan(index: Index, spec: WriteSpec) -> list[Pass]:
    """The passes that still have something to write. Raises ConversionError where other betons are in the way."""
    _check_expected(index, spec)
    wanted = _wanted_caps(index, spec)
    passes = []
    for stream in index.streams:
        if stream.cap is None:
            resized = {other.cap for other in index.streams if other.split == stream.split} - {None}
            caps = tuple(cap for cap in wanted if cap not in resized)
        else:
            caps = (stream.cap,) if stream.cap in wanted else ()
        if caps:
            passes.append(_pass(stream, caps, spec))
    return passes


def _pass(stream: Stream, caps: tuple[int | None, ...], spec: WriteSpec) -> Pass:
    name = stream.split if stream.cap is None else f"{stream.split}_{stream.cap}"
    notes = spec.data.out / f"{name}.journal"
    settings = {cap: _settings(stream, cap, spec) for cap in caps}
    paths = {cap: spec.data.out / f"{stream.split}_{cap or 'full'}.beton" for cap in caps}
    complete = {cap: is_complete(paths[cap], settings[cap]) for cap in caps}
    missing = tuple(cap for cap in caps if not complete[cap])
    # A pass that was interrupted while its betons took their names goes on as the pass that it was.
    interrupted = journal.peek(notes)
    if interrupted and missing:
        was = tuple(None if cap == "full" else cap for cap in interrupted["betons"])
        caps = was if set(missing) <= set(was) <= set(caps) else missing
    elif missing:
        caps = missing
    recipe = Recipe(
        # A resized stream is stored as it is: no cap holds for it.
        caps=caps if stream.cap is None else (None,),
        side=spec.data.side,
        quality=spec.write.quality,
        seekable=spec.write.seekable,
        keep=stream.cap is not None or spec.write.full == "original",
        raw_share=spec.write.raw,
        seed=spec.write.seed,
        page_bytes=tuple(settings[cap]["page_bytes"] for cap in caps),
    )
    return Pass(
        stream,
        caps,
        recipe,
        tuple(paths[cap] for cap in caps),
        tuple(settings[cap] for cap in caps),
        tuple(complete[cap] for cap in caps),
        notes,
    )


def _settings(stream: Stream, cap: int | None, spec: WriteSpec) -> dict[str, Any]:
    """The fields of the manifest that decide a beton's bytes."""
    originals = stream.cap is not None or (cap is None and spec.write.full == "original")
    return {
        "split": stream.split,
        "cap": cap,
        "side": spec.data.side,
        "quality": spec.write.quality,
        "seekable": spec.write.seekable and cap is not None and stream.cap is None,
        "mode": spec.write.mode,
        "raw_share": spec.write.raw,
        "seed": spec.write.seed,
        "originals": originals,
        "page_bytes": _page_bytes(stream, cap),
        "source_digest": stream.digest(),
    }


def _page_bytes(stream: Stream, cap: int | None) -> int:
    """FFCV's 8 MiB, or more where a file that may be stored as it is would not fit."""
    if cap is not None and stream.cap is None:
        return layout.PAGE_BYTES
    longest = min(int(stream.places["length"].max()), _MOST_PAGE_BYTES)
    return max(layout.PAGE_BYTES, 1 << max(longest - 1, 0).bit_length())


def is_complete(beton: Path, settings: dict[str, Any]) -> bool:
    """Whether the beton is there and is what these settings give. Raises ConversionError if it is another one."""
    if not beton.exists():
        return False
    try:
        found = manifest.read(beton)
    except (FileNotFoundError, manifest.ManifestError) as error:
        raise ConversionError(f"{error}; or remove {beton}") from None
    for key, value in settings.items():
        if getattr(found, key) != value:
            what = "from another source" if key == "source_digest" else f"with {key} {getattr(found, key)}, not {value}"
            raise ConversionError(f"{beton}: is there already, made {what}; remove it or give another --data.out")
    if beton.stat().st_size != found.bytes:
        raise ConversionError(f"{beton}: has not the size its manifest says; remove it")
    return True


def _wanted_caps(index: Index, spec: WriteSpec) -> tuple[int | None, ...]:
    resized = sorted({stream.cap for stream in index.streams if stream.cap is not None})
    originals = any(stream.cap is None for stream in index.streams)
    if spec.data.cap_pixels is None:
        return DEFAULT_CAPS if originals else tuple(resized)
    for cap in spec.data.cap_pixels:
        if not originals and cap not in resized:
            there = ",".join(map(str, resized))
            message = f"--data.caps: no images for {cap or 'full'} in the source; it has {there}"
            raise ConversionError(message)
    return spec.data.cap_pixels


def _check_expected(index: Index, spec: WriteSpec) -> None:
    expected = spec.data.expect or labels.expected(index.classes)
    if expected == "imagenet1k" and (faults := labels.shortfalls(index.classes, index.images())):
        raise ConversionError(f"not ImageNet-1k: {'; '.join(faults)}; if that is meant, --data.expect=any")


def versions() -> dict[str, str]:
    """What the bytes of a beton may depend on, and the format's own version."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": importlib.metadata.version("pillow"),
        "libjpeg": native.libjpeg_version(),
        "ffcv": importlib.metadata.version("ffcv"),
    }
