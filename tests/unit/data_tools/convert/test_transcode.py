"""What is stored of an image: pixels against PIL and cv2, sizes by hand, the share of raw samples."""

import io
from dataclasses import replace

import numpy as np
import pytest
from helpers.images import encoded, jpeg, oddities, photo
from helpers.stored import OPTIONS, Stored, store
from numpy.typing import NDArray
from PIL import Image

from data_tools.beton.format import JPG, PAGE_BYTES, RAW
from data_tools.convert.transcode import (
    BadImageError,
    decode,
    wants_raw,
)
from data_tools.native import codec

ODD_IMAGES = oddities()


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_decode_gives_the_pixels_of_pil(name: str) -> None:
    with Image.open(io.BytesIO(ODD_IMAGES[name])) as image:
        wanted = np.asarray(image.convert("RGB"))  # which leaves EXIF's orientation alone
    found = decode(ODD_IMAGES[name])
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 2


def raw(
    pixels: NDArray[np.uint8], *caps: int | None, side: str = "shorter", filter: str = "area"
) -> list[NDArray[np.uint8]]:
    """The pixels that are stored of a picture at these caps."""
    own = {"caps": caps, "side": side, "filter": filter, "page_bytes": (PAGE_BYTES,) * len(caps)}
    options = replace(OPTIONS, **own, raw_share=1.0)
    return [stored.pixels for stored in store(encoded(Image.fromarray(pixels), "PNG"), "c/x", options)]


@pytest.mark.parametrize(
    ("size", "cap", "side", "wanted"),
    [
        ((375, 500), 160, "shorter", (160, 213)),  # the figure of the -sz directories
        ((500, 375), 160, "shorter", (213, 160)),
        ((375, 500), 160, "longer", (120, 160)),  # FFCV's max_resolution
        ((375, 500), None, "shorter", (375, 500)),
        ((100, 900), 160, "shorter", (100, 900)),  # downwards only
        ((100, 900), 160, "longer", (17, 160)),
        ((1, 1000), 160, "longer", (1, 160)),  # no side below 1
        ((3, 2000), 160, "longer", (1, 160)),
        ((160, 160), 160, "shorter", (160, 160)),
        ((6553, 33), 32, "shorter", (6354, 32)),  # rounded down
    ],
)
def test_capped_sizes(size: tuple[int, int], cap: int | None, side: str, wanted: tuple[int, int]) -> None:
    (found,) = raw(np.zeros((*size, 3), np.uint8), cap, side=side)
    assert found.shape[:2] == wanted


def test_downscaled_image_is_close_to_cv2_inter_area() -> None:
    import cv2

    pixels = photo(3, 640, 480)
    small, middle = raw(pixels, 160, 320)
    for found, (width, height) in ((middle, (426, 320)), (small, (213, 160))):
        assert found.shape == (height, width, 3)
        wanted = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        error = (found.astype(float) - wanted) ** 2
        assert 10 * np.log10(255**2 / error.mean()) > 38


def test_lanczos_makes_every_size_from_the_original_as_pil_does() -> None:
    pixels = photo(3, 640, 480)
    for found, size in zip(raw(pixels, 160, 320, filter="lanczos"), ((213, 160), (426, 320)), strict=True):
        wanted = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        assert np.abs(found.astype(int) - wanted).max() <= 3


@pytest.mark.parametrize("how", ["area", "lanczos"])
def test_each_size_is_independent_of_the_others(how: str) -> None:
    pixels = photo(4, 700, 500)
    caps = (None, 320, 200, 160, 100)
    together, alone = raw(pixels, *caps, filter=how), [raw(pixels, cap, filter=how)[0] for cap in caps]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_stored_images_are_jpegs_of_the_source() -> None:
    data = jpeg(photo(5, 500, 375), quality=95)
    small, middle, full = store(data, "c/x", OPTIONS)
    assert [(each.mode, each.width, each.height) for each in (small, middle, full)] == [
        (JPG, 213, 160),
        (JPG, 426, 320),
        (JPG, 500, 375),
    ]
    with Image.open(io.BytesIO(bytes(full.data))) as image:
        assert np.abs(np.asarray(image).astype(int) - decode(data)).mean() < 3
    info = codec.probe(full.data)
    assert (info.subsampling, info.quality_estimate, info.progressive) == ("420", 90, False)
    assert full.checksum == codec.checksum(full.data)
    assert not full.kept


def test_plain_jpegs_are_kept_as_they_are() -> None:
    extended = jpeg(photo(6, 64, 64)).replace(b"\xff\xc0", b"\xff\xc1", 1)
    for name, data in (ODD_IMAGES | {"extended": extended}).items():
        full = store(data, name, replace(OPTIONS, keep=True))[2]
        assert full.kept == (name not in ("cmyk", "png", "palette", "alpha"))
        assert (bytes(full.data) == data) == full.kept


def test_raw_sample_holds_the_pixels() -> None:
    data = jpeg(photo(7, 500, 375))
    full = store(data, "c/x", replace(OPTIONS, raw_share=1.0, keep=True))[2]
    assert (full.mode, full.kept) == (RAW, False)
    assert np.array_equal(full.pixels, decode(data))


def test_sample_too_large_for_a_page_is_stored_in_another_way() -> None:
    data = jpeg(photo(8, 400, 300), quality=60)
    re_encoded = store(data, "c/x", replace(OPTIONS, caps=(None,), page_bytes=(PAGE_BYTES,)))[0]
    assert len(re_encoded.data) > len(data)

    def full(page_bytes: int, **more: object) -> Stored:
        return store(data, "c/x", replace(OPTIONS, caps=(None,), page_bytes=(page_bytes,), **more))[0]

    as_pixels = full(400 * 300 * 3, raw_share=1.0)
    assert as_pixels.mode == RAW
    too_large_as_pixels = full(400 * 300 * 3 - 1, raw_share=1.0)
    assert (too_large_as_pixels.mode, too_large_as_pixels.kept) == (JPG, False)
    assert full(len(re_encoded.data) - 1).kept
    with pytest.raises(BadImageError, match="a page of the beton"):
        full(len(data) - 1)


def test_raw_share_is_kept_and_depends_on_key_and_seed() -> None:
    recipe = replace(OPTIONS, raw_share=0.3)
    keys = [f"n{at % 10:08d}/{at}.JPEG" for at in range(4000)]
    chosen = [wants_raw(key, recipe) for key in keys]
    assert chosen == [wants_raw(key, recipe) for key in keys]
    assert abs(sum(chosen) - 1200) < 4 * (4000 * 0.3 * 0.7) ** 0.5
    other = [wants_raw(key, replace(recipe, seed=1)) for key in keys]
    assert abs(sum(a and b for a, b in zip(chosen, other, strict=True)) - 360) < 80
    assert not any(wants_raw(key, OPTIONS) for key in keys[:50])
    assert all(wants_raw(key, replace(OPTIONS, raw_share=1.0)) for key in keys[:50])


def test_pictures_of_kinds_that_are_not_read_are_named() -> None:
    with pytest.raises(BadImageError, match="an AVIF image, which is not read"):
        decode(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1" + bytes(600))
    with pytest.raises(BadImageError, match="not an image"):
        decode(b"anything else" + bytes(600))
