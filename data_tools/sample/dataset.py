"""A generated sample dataset: kinds of pattern, photographed badly, as a sorted tar.

The tar has the layout of the sorted ImageNet tar, ``sample/{train,val}/<class>/<file>.JPEG``, so that
programs for ImageNet can be tried without it. The classes differ by what survives a random resized crop and a
flip: the shape of the pattern, at any angle and scale, and a hue that two classes share. More than ten classes are
mixtures of two patterns and a hue (`mixtures.py`). One file in seven has one of ImageNet's oddities.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.common.files import partial_file
from data_tools.sample import mixtures, patterns

# --- one file ---


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleImage:
    """One file: its class, what its random generator is seeded with, and in what it is odd, if it is."""

    split: str
    kind: str
    index: int  # within the split
    seed: int
    oddity: str

    @property
    def name(self) -> str:
        stem = f"{self.kind}_{self.index:05d}" if self.split == "train" else f"SAMPLE_val_{self.index:08d}"
        return f"sample/{self.split}/{self.kind}/{stem}.JPEG"


ODDITIES = {3: "grey", 9: "cmyk", 16: "png", 22: "palette", 29: "exif", 35: "progressive"}
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
EXIF_ORIENTATION = 0x0112


def encode(spec: SampleImage, image: Image.Image, rng: np.random.Generator) -> bytes:
    """The file's bytes: a JPEG of quality 75 to 96, or one of the oddities."""
    out = io.BytesIO()
    jpeg = {"quality": int(rng.integers(75, 97)), "subsampling": SUBSAMPLINGS[rng.integers(3)]}
    match spec.oddity:
        case "png":
            image.save(out, "PNG", compress_level=1)
        case "palette":
            image.quantize(64, Image.Quantize.FASTOCTREE).save(out, "PNG", compress_level=1)
        case "grey":
            image.convert("L").save(out, "JPEG", quality=jpeg["quality"])
        case "cmyk":
            image.convert("CMYK").save(out, "JPEG", **jpeg)
        case "exif":
            exif = Image.Exif()
            exif[EXIF_ORIENTATION] = int(rng.integers(2, 9))
            image.save(out, "JPEG", exif=exif, **jpeg)
        case oddity:
            image.save(out, "JPEG", progressive=oddity == "progressive", **jpeg)
    return out.getvalue()


def make(spec: SampleImage) -> bytes:
    """The file that `spec` describes. Its random generator is seeded with (seed, split, index) alone."""
    rng = np.random.default_rng((spec.seed, spec.split == "val", spec.index))
    if spec.kind in mixtures.MIXTURES:
        return encode(spec, mixtures.render(spec.kind, rng), rng)
    long, short = int(rng.integers(460, 641)), int(rng.integers(400, 461))
    height, width = (long, short) if rng.random() < 0.3 else (short, long)  # ImageNet: mostly landscape
    return encode(spec, patterns.render(spec.kind, height, width, rng), rng)


# --- the tar ---


def specs(*, classes: int = 10, train: int = 1600, val: int = 400, seed: int = 0) -> list[SampleImage]:
    """All files in the order of the tar: by split, class and number. Balanced to within one image a class."""
    few = classes <= len(patterns.PATTERNS)
    kinds = list(patterns.PATTERNS if few else mixtures.MIXTURES)[:classes]
    images = [
        # 41 is coprime to every small number of classes: each class gets its share of each oddity.
        SampleImage(
            split=split,
            kind=kinds[i % classes],
            index=i,
            seed=seed,
            oddity=ODDITIES.get((i if few else i // classes) % 41, ""),
        )
        for split, count in (("train", train), ("val", val))
        for i in range(count)
    ]
    return sorted(images, key=lambda image: image.name)


@contextmanager
def _generated(images: list[SampleImage], workers: int) -> Iterator[Iterable[bytes]]:
    if workers == 1:
        yield map(make, images)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map(make, images, chunksize=16)


def write(out: Path, images: list[SampleImage], *, workers: int = 1) -> None:
    """Write the tar atomically. The same images give the same bytes, whatever `workers` is."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        partial_file(out) as partial,
        _generated(images, workers) as files,
        tarfile.open(partial, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for image, data in zip(images, files, strict=True):
            member = tarfile.TarInfo(image.name)  # owner 0, time 0: the same on every machine
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
