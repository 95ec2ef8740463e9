"""What `python -m data_tools.describe` says of a beton, and its contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import describe


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
