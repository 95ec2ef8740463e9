"""Which phase training.evaluate validates as."""

from pathlib import Path

import pytest
from helpers.recipes import arguments

from data_tools.common.options import parse
from training import evaluate
from training.config.schedule import Phase


def phase(recipe: str, *argv: str) -> Phase:
    return parse(evaluate.EvaluateOptions, ["best.pt", *arguments(recipe), *argv], prog="test").phase


def test_other_size_keeps_the_part_of_the_image() -> None:
    assert phase("mosaic_mild", "--px=256").val_shorter_px == 265  # 232 · 256 / 224
    assert phase("titan8", "--px=256").val_shorter_px == 291  # 1.14 · 256


def test_shape_is_that_of_the_last_phase_unless_given() -> None:
    assert (phase("titan8").val_px, phase("titan8").rectangular_val) == (288, True)
    assert not phase("titan8", "--rectangular=false").rectangular_val


def test_missing_weights_are_named_as_the_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path / "none.pt"), *arguments("titan8")]) == 2
    assert f"WEIGHTS: {tmp_path / 'none.pt'}: no checkpoint here" in capsys.readouterr().err
