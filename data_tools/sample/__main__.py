"""Generate a sample data set: images of ten kinds of pattern, with noise and distortion, as a sorted tar."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.common.errors import program
from data_tools.common.options import REQUIRED, OptionError, check, option, parse
from data_tools.common.resources import usable_cores
from data_tools.sample.dataset import specs, write
from data_tools.sample.patterns import PATTERNS


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """One dataset."""

    out: Path = option(REQUIRED, "where to write the tar", argument="OUT.tar")
    classes: int = option(10, "number of classes, each a kind of pattern", low=2, high=len(PATTERNS))
    train: int = option(1600, "training images in total", low=2)
    val: int = option(400, "validation images in total", low=2)
    seed: int = option(0, "seed of the random images", low=0)
    workers: int | None = option(None, "processes that draw the images", low=1, none="one per usable core")

    def __post_init__(self) -> None:
        check(self)
        for key in ("train", "val"):
            if (images := getattr(self, key)) < self.classes:
                raise OptionError(f"{images} images are too few for {self.classes} classes", where=f"--{key}")


@program("data_tools.sample")
def main(argv: Sequence[str]) -> int:
    options = parse(SampleOptions, argv, prog="data_tools.sample", description=__doc__ or "")
    images = specs(classes=options.classes, train=options.train, val=options.val, seed=options.seed)
    start = time.monotonic()
    write(options.out, images, workers=options.workers or usable_cores())
    seconds = time.monotonic() - start
    print(f"{options.out}: {len(images)} images, {options.out.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
