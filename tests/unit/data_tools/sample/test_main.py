"""The command line of the sample dataset."""

from pathlib import Path

import pytest

from data_tools.sample.__main__ import main


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--classes", "1001"], "classes: 1001 is out of range (2 to 1000)"),
        (["--classes=27", "--val=26"], "--val: 26 images are too few for 27 classes"),
    ],
)
def test_wrong_options_are_named(
    tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "x.tar"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
