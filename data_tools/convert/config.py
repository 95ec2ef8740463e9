"""The options of `write_datasets.py`: frozen, typed, checked on construction."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from data_tools.common.options import OptionError, Section
from data_tools.common.resources import usable_cores


class Data(Section):
    """what is read, and which betons it becomes"""

    source: tuple[Path, ...] = Field(
        description="what to convert: tars, folders, ILSVRC archives, parquet; comma-separated"
    )
    splits: tuple[Literal["train", "val"], ...] | None = Field(
        None,
        description="`train`, `val` or `train,val`; if given, their classes may differ; by default both, which must "
        "have the same classes",
    )
    follow_links: bool = Field(False, description="in the folder of a class, follow links, too")
    max_left_out: float = Field(
        0.01,
        ge=0,
        le=1,
        description="stop if a larger share of the images is in no folder of a split and class",
    )
    out: Path = Field(Path("data/beton"), description="folder for the betons; made if it is missing")
    caps: tuple[str, ...] | None = Field(
        None,
        description="sizes in px, or `full`; comma-separated; by default `160,320,full`, or the sizes that the "
        "sources have if all are `-sz`",
    )
    side: Literal["shorter", "longer"] = Field("shorter", description="the side that a cap limits")
    expect: Literal["imagenet1k", "any"] | None = Field(
        None,
        description="what a source must hold: all of `imagenet1k`, or `any` images; by default `imagenet1k` if its "
        "classes are 1000 wnids, else two or more classes",
    )

    image_column: str | None = Field(
        None, description="for parquet: the column of images; by default found by name or type"
    )
    label_column: str | None = Field(
        None, description="for parquet: the column of labels; by default found by name or type"
    )

    @field_validator("caps")
    @classmethod
    def _are_sizes(cls, caps: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for cap in caps or ():
            if cap != "full" and not (cap.isdecimal() and 1 <= int(cap) <= 65_535):
                raise OptionError(f"{cap!r} is neither a number of pixels (1 to 65535) nor full")
        return caps and tuple(cap if cap == "full" else str(int(cap)) for cap in caps)

    @field_validator("splits", "caps")
    @classmethod
    def _are_different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        if not names:
            raise OptionError("empty", remedy="give at least one, or leave it out")
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise OptionError(f"{twice} is given twice")
        return names

    @property
    def cap_pixels(self) -> tuple[int | None, ...] | None:
        """The caps as numbers; None stands for full."""
        return None if self.caps is None else tuple(None if cap == "full" else int(cap) for cap in self.caps)


class Write(Section):
    """how images are stored"""

    filter: Literal["area", "lanczos"] = Field(
        "area",
        description="how capped sizes are made: `area` averages; `lanczos` is sharper, its files are 4 % (`160`) and "
        "8 % (`320`) larger, and converting takes 1.14 times as long",
    )
    quality: int = Field(90, ge=1, le=100, description="quality of the encoded JPEGs; always 4:2:0")
    seekable: bool = Field(
        True,
        description="put restart markers into capped sizes: crops decode up to 1.2 times as fast, files are 4 % larger",
    )
    full: Literal["encode", "original"] = Field(
        "encode",
        description="at full size, `encode` every image; `original` keeps plain JPEGs as they are",
    )
    mode: Literal["jpg", "raw", "proportion"] = Field(
        "jpg", description="store images as `jpg`, as `raw` pixels, or in a `proportion` of both"
    )
    raw_share: float = Field(0.5, ge=0, le=1, description="for `proportion`: the share of images stored as pixels")
    seed: int = Field(0, ge=0, description="for `proportion`: seed of this choice")
    on_bad: Literal["fail", "skip"] = Field("fail", description="on a damaged image, `fail`, or `skip` it")
    max_bad: int = Field(10, ge=0, description="with `skip`: stop if a split has more than this many")
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="threads; the files do not depend on their number; by default one per usable core",
    )

    @property
    def threads(self) -> int:
        return usable_cores() if self.workers is None else self.workers

    @property
    def raw(self) -> float:
        """The share of samples stored as pixels."""
        return {"jpg": 0.0, "raw": 1.0, "proportion": self.raw_share}[self.mode]


class WriteSpec(Section):
    data: Data
    write: Write = Write()
