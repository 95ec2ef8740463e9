"""JPEG, resize and checksum against PIL, cv2 and published vectors."""

import io
import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from helpers import images, native_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.native import codec


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return images.photo(seed, width, height)


def jpeg(rgb: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    return images.encoded(Image.fromarray(rgb).convert(mode), "JPEG", **{"quality": 90, **options})


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 31), (120, 161)])
def test_decode_gives_the_pixels_of_pil(size: tuple[int, int], subsampling: int) -> None:
    data = jpeg(photo(*size), subsampling=subsampling)
    ours, theirs = codec.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 2  # PIL brings a libjpeg-turbo of its own


def test_decode_takes_any_buffer_progressive_and_grey() -> None:
    data = jpeg(photo(40, 50), progressive=True)
    expected = codec.decode(data)
    for same in (bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(codec.decode(same), expected)
    grey = codec.decode(jpeg(photo(40, 50), "L"))
    assert grey.shape == (40, 50, 3) and (grey == grey[..., :1]).all()


def test_probe_reads_the_header() -> None:
    info = codec.probe(jpeg(photo(33, 77), quality=83, subsampling=1, progressive=True))
    assert (info.width, info.height, info.components, info.subsampling) == (77, 33, 3, "422")
    assert info.progressive and not info.arithmetic and info.restart_interval == 0 and info.quality_estimate == 83
    assert codec.probe(jpeg(photo(9, 9), "L")).subsampling == "grey"


@pytest.mark.parametrize("quality", [1, 37, 50, 75, 90, 100])
def test_quality_is_estimated_as_written(quality: int) -> None:
    assert codec.probe(native_images.encode(photo(16, 16), quality=quality)).quality_estimate == quality


def test_cmyk_and_damage_are_different_errors() -> None:
    data = jpeg(photo(200, 200), "CMYK")
    with pytest.raises(codec.NotRGBError, match="conversion"):
        codec.decode(data)
    assert codec.probe(data).components == 4
    with pytest.raises(codec.NativeError, match="Premature") as caught:
        codec.decode(data[:-500])
    assert not isinstance(caught.value, codec.NotRGBError)


def test_odd_jfif_version_is_accepted() -> None:
    data = jpeg(photo(60, 80))
    assert data[6:11] == b"JFIF\0"
    odd_version = data[:11] + b"\x07" + data[12:]
    np.testing.assert_array_equal(codec.decode(odd_version), codec.decode(data))


@pytest.mark.parametrize(("subsampling", "pil"), [("444", 0), ("422", 1), ("420", 2)])
def test_encode_is_as_good_and_as_small_as_pil(subsampling: str, pil: int) -> None:
    rgb = photo(150, 211)
    ours, theirs = native_images.encode(rgb, quality=90, subsampling=subsampling), jpeg(rgb, subsampling=pil)
    decoded = np.asarray(Image.open(io.BytesIO(ours.tobytes())))
    assert codec.probe(ours).subsampling == subsampling
    assert psnr(decoded, rgb) > psnr(np.asarray(Image.open(io.BytesIO(theirs))), rgb) - 0.1
    assert len(ours) < 1.01 * len(theirs)


def test_encode_takes_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for seekable in (False, True):
        data = native_images.encode(noise, quality=100, subsampling="444", seekable=seekable)
        assert psnr(codec.decode(data), noise) > 40


@pytest.mark.parametrize("size", [(50, 70), (128, 128), (99, 33), (1, 1), (200, 100)])
def test_downscaling_equals_cv2_inter_area(size: tuple[int, int]) -> None:
    rgb = photo(200, 300)
    theirs = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(native_images.resize(rgb, *size).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("size", [(61, 45), (128, 128), (300, 44)])
def test_upscaling_is_bilinear(size: tuple[int, int]) -> None:
    rgb = photo(60, 44)
    theirs = np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(native_images.resize(rgb, *size).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize(
    "size", [(160, 213), (320, 426), (321, 500), (375, 320), (281, 375), (3, 2), (1, 1), (400, 600)]
)
@pytest.mark.parametrize(
    "rgb", [photo(375, 500), np.random.default_rng(1).integers(0, 2, (375, 500, 3), np.uint8) * 255]
)
def test_lanczos_is_pils(size: tuple[int, int], rgb: np.ndarray) -> None:
    """In floats, because in bytes PIL cuts off between the axes what overshoots."""
    planes = [Image.fromarray(rgb[:, :, channel].astype(np.float32)) for channel in range(3)]
    theirs = np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.LANCZOS)) for plane in planes], 2)
    error = native_images.resize(rgb, *size, "lanczos") - theirs.clip(0, 255)
    assert np.abs(error).max() < (1 if min(size) > 3 else 1.5)  # where hundreds of small weights are rounded
    assert abs(error.mean()) < 0.05 or error.size < 100


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(1, 70)] * 4), st.integers(0, 255), st.sampled_from(["area", "lanczos"]))
def test_uniform_image_stays_uniform(
    sizes: tuple[int, int, int, int], level: int, how: Literal["area", "lanczos"]
) -> None:
    flat = np.full((*sizes[:2], 3), level, np.uint8)
    assert (native_images.resize(flat, *sizes[2:], how) == level).all()


@pytest.mark.parametrize(
    ("data", "expected"),  # from the reference implementation, seed 0
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_checksum_is_xxh64(data: bytes, expected: int) -> None:
    assert codec.checksum(data) == expected


def test_vector_instructions_match_the_processor() -> None:
    flags = set(re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text() + "\nflags:", re.MULTILINE)[1].split())
    needed = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}  # x86-64-v3, less what avx2 implies
    assert (codec.vectors() == "AVX2") == (needed <= flags)
