"""Draws rows of labelled crops as one picture, every pixel unchanged or enlarged by a whole number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_tools.common.errors import UserError
from data_tools.common.files import partial_file

WIDTH = 2000  # a row takes as many crops as fit
MARGIN, GAP = 32, 12
ROOM = WIDTH - 2 * MARGIN
HEADING, TITLE, LABEL = 30, 19, 16  # px of type
INK, FAINT, RULE = "#1a1a1a", "#5f6368", "#d5d8dc"


@dataclass(frozen=True, slots=True)
class Crop:
    """``pixels`` (height, width, 3) uint8 and their label."""

    pixels: NDArray[np.uint8]
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """``title`` above ``crops``, wrapped as needed; ``heading`` above both."""

    title: str
    crops: list[Crop]
    heading: str = ""


def per_row(width: int) -> int:
    return max(1, (ROOM + GAP) // (width + GAP))


def fit(crops: Sequence[Crop], zoom: int) -> bool:
    return sum(int(crop.pixels.shape[1]) * zoom + GAP for crop in crops) - GAP <= ROOM


def save(rows: Sequence[Row], zoom: int, path: Path) -> None:
    """Draw ``rows`` with every crop enlarged ``zoom`` times; the suffix of ``path`` gives the format."""
    strips = [strip for row in rows for strip in _strips(row, zoom)]
    size = max(strip.width for strip in strips), MARGIN + sum(strip.height for strip in strips)
    picture = Image.new("RGB", size, "white")
    top = MARGIN // 2
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial_file(path) as partial:
            picture.save(partial)
    except ValueError as error:  # there are no .webp of more than 16,383 px
        raise UserError(str(error), where=path, remedy="give a .png") from None


def _strips(row: Row, zoom: int) -> Iterator[Image.Image]:
    if row.heading:
        yield _text(row.heading, HEADING, INK, above=24, below=2, rule=True)
    yield _text(row.title, TITLE, FAINT, above=12, below=8)
    line: list[Crop] = []
    for crop in row.crops:
        if line and not fit([*line, crop], zoom):
            yield _line(line, zoom)
            line = []
        line.append(crop)
    if line:
        yield _line(line, zoom)


def _text(text: str, size: int, colour: str, *, above: int, below: int, rule: bool = False) -> Image.Image:
    strip = Image.new("RGB", (WIDTH, above + size + size // 3 + below), "white")
    draw = ImageDraw.Draw(strip)
    if rule:
        draw.line((MARGIN, above // 2, WIDTH - MARGIN, above // 2), fill=RULE, width=2)
    draw.text((MARGIN, above), text, fill=colour, font=ImageFont.load_default(size))
    return strip


def _line(crops: Sequence[Crop], zoom: int) -> Image.Image:
    """Crops side by side, their labels under them."""
    images = [Image.fromarray(crop.pixels) for crop in crops]
    images = [image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST) for image in images]
    width = max(WIDTH, images[0].width + 2 * MARGIN)  # a crop that is too wide stands alone
    strip = Image.new("RGB", (width, max(image.height for image in images) + LABEL + 12), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(LABEL)
    # Justify a line that is nearly full.
    spare = ROOM - sum(image.width for image in images)
    gap = spare / (len(crops) - 1) if len(crops) > 1 and spare < ROOM / 4 else GAP
    left = float(MARGIN)
    for crop, image in zip(crops, images, strict=True):
        strip.paste(image, (round(left), 0))
        draw.text((left, image.height + 3), _fitting(crop.label, image.width, font), fill=INK, font=font)
        left += image.width + gap
    return strip


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """``text``, or as much of it as fits into ``width`` pixels."""
    cut = (f"{text[:end]}…" for end in range(len(text) - 1, -1, -1))
    return next((each for each in (text, *cut) if font.getlength(each) <= width), "…")
