"""What `python -m data_tools.describe` says of a beton, and its contact sheet."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.betons import copy_beton, overwrite
from PIL import Image

from data_tools import describe
from data_tools.beton.format import SAMPLES_START
from data_tools.beton.manifest import manifest_path


def test_describe_prints_counts_and_draws_a_sheet(
    betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe.main([str(betons / "train_160.beton"), "--sheet", str(tmp_path / "s.png")]) == 0
    text = capsys.readouterr().out
    for words in (
        "40 images",
        "shorter side at most 160 px",
        "4 classes, 4 with images: fewest 10",
        "stored as JPEG 40, as pixels 0",
        "quality (estimate) of 40 looked at: 90 100%",
        "subsampling of 40 looked at: 420 100%",
        "width / height",
    ):
        assert words in text, words
    with Image.open(tmp_path / "s.png") as sheet:
        assert np.asarray(sheet).std() > 30
    assert describe.main([str(betons / "none.beton")]) == 2
    assert describe.main([str(betons / "train_160.beton"), "--sheet=x"]) == 2
    assert "--sheet: unknown file extension ''; give a .png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("offset", "value", "fault"),
    [
        (3, bytes(2), "has a side of 0"),
        (5, b"\xff" * 8, "points to other bytes than its alloc entry"),
        (16, struct.pack("<q", -1), "has a negative label"),
        (16, struct.pack("<q", (1 << 63) - 1), ""),  # which only a manifest could tell
    ],
)
def test_damaged_sample_is_named(
    betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], offset: int, value: bytes, fault: str
) -> None:
    beton = copy_beton(betons / "val_160.beton", tmp_path)
    manifest_path(beton).unlink()
    overwrite(beton, SAMPLES_START + 24 * 3 + offset, value)
    status = describe.main([str(beton), f"--sheet={tmp_path / 's.png'}"])
    out, err = capsys.readouterr()
    assert "no manifest beside it" in out
    assert (status, len(err.splitlines())) == ((2, 1) if fault else (0, 0)), err
    assert f"sample 3 {fault}" in err if fault else "5 classes, 5 with images: fewest 1 (9223372036854775807)" in out
