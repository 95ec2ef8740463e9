"""The command line of the sample dataset."""

from pathlib import Path

import pytest

from data_tools.sample.__main__ import main


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--classes", "11"], "--classes 11"),
        (["--classes", "1"], "--classes 1"),
        (["--val", "9"], "--val 9"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_wrong_options_are_named(
    tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "x.tar"), *options])
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
