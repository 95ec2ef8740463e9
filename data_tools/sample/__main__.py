"""Generate a sample data set: images of patterns, with noise and distortion, as a sorted tar."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from data_tools.common.errors import program
from data_tools.common.files import check_output
from data_tools.common.options import Argument, OptionError, Section, parse
from data_tools.common.resources import usable_cores
from data_tools.sample.dataset import specs, write
from data_tools.sample.mixtures import MIXTURES


class SampleOptions(Section):
    out: Annotated[Path, Argument("OUT.tar")] = Field(description="where to write the tar")
    classes: int = Field(
        10, ge=2, le=len(MIXTURES), description="number of classes; above 10, mixtures of two patterns and a hue"
    )
    train: int = Field(1600, ge=2, description="training images in total")
    val: int = Field(400, ge=2, description="validation images in total")
    seed: int = Field(0, ge=0, description="seed of the random images")
    workers: int | None = Field(
        None, ge=1, description="processes that draw the images; by default one per usable core"
    )

    @field_validator("train", "val")
    @classmethod
    def _has_every_class(cls, images: int, others: ValidationInfo) -> int:
        if images < (classes := others.data.get("classes", 2)):
            raise OptionError(f"{images} images are too few for {classes} classes")
        return images


@program("data_tools.sample")
def main(argv: Sequence[str]) -> int:
    options = parse(SampleOptions, argv, prog="data_tools.sample", description=__doc__ or "")
    check_output(options.out, ".tar")
    images = specs(classes=options.classes, train=options.train, val=options.val, seed=options.seed)
    start = time.monotonic()
    write(options.out, images, workers=options.workers or usable_cores())
    seconds = time.monotonic() - start
    print(f"{options.out}: {len(images)} images, {options.out.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
