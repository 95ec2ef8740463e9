"""The options of `write_datasets.py`: frozen, typed, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.common.options import REQUIRED, OptionError, check, option
from data_tools.common.resources import usable_cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """what is read, and which betons it becomes"""

    source: tuple[Path, ...] = option(REQUIRED, "tars, folders, ILSVRC archives, parquet; comma-separated")
    splits: tuple[Literal["train", "val"], ...] | None = option(
        None,
        "what is converted, `train`, `val` or `train,val`; what is named may differ in its classes",
        none="both, which must have the same classes",
    )
    follow_links: bool = option(False, "in a folder, follow links to images; those to folders of classes always are")
    out: Path = option(Path("data/beton"), "folder for the betons; made if it is missing")
    caps: tuple[str, ...] | None = option(
        None,
        "sizes in px, or `full`; comma-separated",
        none="`160,320,full`; of a `-sz` source alone, the sizes that it has",
    )
    side: Literal["shorter", "longer"] = option("shorter", "the side that a cap holds for")
    expect: Literal["imagenet1k", "any"] | None = option(
        None, "what the source must hold", none="`imagenet1k` if its classes are 1000 wnids, else `any`"
    )

    image_column: str | None = option(
        None, "of parquet: the column of images", none="`image`, or the only one that is usual"
    )
    label_column: str | None = option(
        None, "of parquet: the column of labels", none="`label`, or the only one that is usual"
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.source:
            raise OptionError("no source given", where="source")
        if self.splits is not None and (not self.splits or len(set(self.splits)) != len(self.splits)):
            raise OptionError(f"{','.join(self.splits)!r} names no split, or one twice", where="splits")
        for cap in self.caps or ():
            if cap != "full" and not (cap.isdecimal() and 1 <= int(cap) <= 65_535):
                raise OptionError(f"{cap!r} is neither a number of pixels (1 to 65535) nor full", where="caps")
        if self.caps is not None and (not self.caps or len(set(self.caps)) != len(self.caps)):
            raise OptionError(f"{','.join(self.caps)!r} names no size, or one twice", where="caps")

    @property
    def cap_pixels(self) -> tuple[int | None, ...] | None:
        """The caps as numbers; None stands for full."""
        return None if self.caps is None else tuple(None if cap == "full" else int(cap) for cap in self.caps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """how images are stored"""

    quality: int = option(90, "quality of the JPEGs that are encoded; always 4:2:0", low=1, high=100)
    seekable: bool = option(
        True, "restart markers in the capped sizes: crops decode up to 1.2 times as fast, files are 4 % larger"
    )
    full: Literal["encode", "original"] = option(
        "encode", "at full size, `encode` anew as JPEG; `original` keeps a file's own bytes where it is a plain JPEG"
    )
    mode: Literal["jpg", "raw", "proportion"] = option(
        "jpg", "store as `jpg`, as `raw` pixels, or a `proportion` of either"
    )
    raw_share: float = option(0.5, "for `proportion`: the share of samples stored as pixels", low=0, high=1)
    seed: int = option(0, "for `proportion`: keys which samples are stored as pixels", low=0)
    on_bad: Literal["fail", "skip"] = option("fail", "at a damaged image, `fail`, or `skip` it")
    max_bad: int = option(10, "with `skip`: stop past this many in a split", low=0)
    workers: int | None = option(
        None,
        "processes that decode and encode; the bytes do not depend on it",
        low=1,
        high=1024,
        none="one for each usable core",
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

    data: Data
    write: Write = Write()
