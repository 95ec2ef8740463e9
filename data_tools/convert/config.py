"""The options of `write_datasets.py`: frozen, typed, checked on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from data_tools.common.options import REQUIRED, OptionError, check, option
from data_tools.common.resources import usable_cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """what is read, and which betons it becomes"""

    source: tuple[Path, ...] = option(
        REQUIRED, "what to convert: tars, folders, ILSVRC archives, parquet; comma-separated"
    )
    splits: tuple[Literal["train", "val"], ...] | None = option(
        None,
        "splits to convert: `train`, `val` or `train,val`; if given, their classes may differ",
        none="both, which must have the same classes",
    )
    follow_links: bool = option(
        False, "in a folder, follow links to images; links to folders of classes are always followed"
    )
    out: Path = option(Path("data/beton"), "folder for the betons; made if it is missing")
    caps: tuple[str, ...] | None = option(
        None,
        "sizes in px, or `full`; comma-separated",
        none="`160,320,full`; if all sources are `-sz`, the sizes that they have",
    )
    side: Literal["shorter", "longer"] = option("shorter", "the side that a cap limits")
    expect: Literal["imagenet1k", "any"] | None = option(
        None, "what the source must hold", none="`imagenet1k` if its classes are 1000 wnids, else `any`"
    )

    image_column: str | None = option(
        None, "for parquet: the column of images", none="`image`, or the only one with a common name"
    )
    label_column: str | None = option(
        None, "for parquet: the column of labels", none="`label`, or the only one with a common name"
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.source:
            raise OptionError("no source given", where="source")
        if self.splits is not None and (not self.splits or len(set(self.splits)) != len(self.splits)):
            raise OptionError(f"{','.join(self.splits)!r} is empty, or names a split twice", where="splits")
        for cap in self.caps or ():
            if cap != "full" and not (cap.isdecimal() and 1 <= int(cap) <= 65_535):
                raise OptionError(f"{cap!r} is neither a number of pixels (1 to 65535) nor full", where="caps")
        if self.caps is not None and (not self.caps or len(set(self.caps)) != len(self.caps)):
            raise OptionError(f"{','.join(self.caps)!r} is empty, or names a size twice", where="caps")

    @property
    def cap_pixels(self) -> tuple[int | None, ...] | None:
        """The caps as numbers; None stands for full."""
        return None if self.caps is None else tuple(None if cap == "full" else int(cap) for cap in self.caps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """how images are stored"""

    quality: int = option(90, "quality of the encoded JPEGs; always 4:2:0", low=1, high=100)
    seekable: bool = option(
        True, "put restart markers into capped sizes: crops decode up to 1.2 times as fast, files are 4 % larger"
    )
    full: Literal["encode", "original"] = option(
        "encode", "at full size, `encode` every image; `original` keeps the bytes of files that are plain JPEGs"
    )
    mode: Literal["jpg", "raw", "proportion"] = option(
        "jpg", "store images as `jpg`, as `raw` pixels, or in a `proportion` of both"
    )
    raw_share: float = option(0.5, "for `proportion`: the share of images stored as pixels", low=0, high=1)
    seed: int = option(0, "for `proportion`: seed of the random choice of images to store as pixels", low=0)
    on_bad: Literal["fail", "skip"] = option("fail", "on a damaged image, `fail`, or `skip` it")
    max_bad: int = option(10, "with `skip`: stop if a split has more than this many", low=0)
    workers: int | None = option(
        None,
        "processes that decode and encode; the files do not depend on their number",
        low=1,
        high=1024,
        none="one per usable core",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def processes(self) -> int:
        return usable_cores() if self.workers is None else self.workers

    @property
    def raw(self) -> float:
        """The share of samples stored as pixels."""
        return {"jpg": 0.0, "raw": 1.0, "proportion": self.raw_share}[self.mode]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteSpec:
    """One conversion."""

    # ffcv-imagenet's options, with or without its section cfg.
    ELSEWHERE: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "data_dir": "give --data.source",
            "dataset": "give --data.source, a folder of class folders or a tar of it",
            "write_path": "give --data.out, a folder",
            "max_resolution": "give --data.caps, with --data.side=longer for the same sizes",
            "compress_probability": "give --write.raw_share, 1 minus the value",
            "jpeg_quality": "give --write.quality",
            "num_workers": "give --write.workers",
        }
    )

    data: Data
    write: Write = Write()
