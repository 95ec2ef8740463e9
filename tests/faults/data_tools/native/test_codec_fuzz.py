"""Mutated JPEGs through the native decoder: pixels or an error, under memory sanitizers."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import native_images
from helpers.images import encoded, jpeg, photo
from PIL import Image

from data_tools.native import codec
from data_tools.native.library import SUBSAMPLING

SOURCE = Path(__file__).with_name("fuzz_native.cpp")


def seeds() -> list[bytes]:
    """Small pictures of every kind that has a path of its own."""
    rgb = photo(1, 90, 61)
    return [
        *(native_images.encode(rgb, quality=85, subsampling=each, seekable=True).tobytes() for each in SUBSAMPLING),
        native_images.encode(rgb, quality=85).tobytes(),
        jpeg(rgb, 80, progressive=True),
        jpeg(rgb, 80, restart_marker_blocks=4, optimize=True),
        jpeg(photo(2, 1, 1)),
        encoded(Image.fromarray(rgb).convert("L"), "JPEG", restart_marker_blocks=1),
        encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
    ]


def corpus() -> list[bytes]:
    """The inputs by which libFuzzer reached new code in ten minutes, reduced to those that are needed for all of it."""
    with zipfile.ZipFile(SOURCE.with_name("corpus.zip")) as archive:
        return [archive.read(name) for name in archive.namelist()]


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_mutated_jpegs_touch_no_other_memory(tmp_path: Path, seconds: int) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on the path")
    program = tmp_path / "fuzz"
    flags = ["-std=c++17", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]
    built = subprocess.run([compiler, *flags, SOURCE, "-ljpeg", "-o", program], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"no build with sanitizers here: {built.stderr[-300:]}")
    files = []
    for number, data in enumerate([*seeds(), *corpus()]):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(data)
    done = subprocess.run([program, str(seconds), "1", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= len(files)


def test_decoder_works_after_any_error() -> None:
    rng = np.random.default_rng(0)
    good = native_images.encode(photo(3, 80, 60), quality=90)
    expected = codec.decode(good)
    outcomes = set()
    for data in seeds() * 20:
        damaged = bytearray(data)
        for at in rng.integers(2, len(damaged), 3):
            damaged[at] = rng.integers(256)
        try:
            codec.decode(bytes(damaged))
            outcomes.add("decoded")
        except codec.NativeError as error:
            assert str(error)
            outcomes.add("refused")
        np.testing.assert_array_equal(codec.decode(good), expected)
    assert outcomes == {"decoded", "refused"}
