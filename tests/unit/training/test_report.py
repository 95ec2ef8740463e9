"""Mistakes and damaged run folders end the report in one line with status 2, before anything is drawn."""

from pathlib import Path

import pytest
from helpers.run_folders import run_folder

from training import report
from training.runlog.epoch_table import COLUMNS


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("epochs.csv", None, "no epochs.csv here; give a run folder"),
        ("epochs.csv", b"epoch,hours\n1,2\n", "no column data_wait_percent, "),
        ("epochs.csv", ",".join(COLUMNS).encode() + b"\n", "no epoch is complete yet"),
        ("config.json", None, "config.json: missing"),
        ("config.json", b"{", "config.json: damaged"),
        ("config.json", b"[]", "config.json: damaged"),
        ("config.json", b'{"schedule": {"phases": 3}}', "phases: 3 is not a list"),
        ("environment.json", None, "environment.json: missing"),
        ("environment.json", b"[]", "environment.json: damaged"),
        ("environment.json", b"[{}]", "environment.json: damaged"),
        ("environment.json", b"3", "environment.json: damaged"),
    ],
)
def test_damaged_run_folder_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, said: str
) -> None:
    folder = run_folder(tmp_path / "run", [50, 60])
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    assert report.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error
    assert str(folder) in error
    assert not (folder / "report.html").exists()


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", [50])
    assert report.main([str(tmp_path / "none")]) == 2
    assert "no such folder; give a run folder" in capsys.readouterr().err
    assert report.main([str(folder), str(folder)]) == 2
    assert "given twice" in capsys.readouterr().err
    others = [str(run_folder(tmp_path / str(i), [50], argv=[f"--train.momentum=0.{i + 1}"])) for i in range(7)]
    assert report.main(others) == 2
    assert "7 runs; at most 6 of several recipes can be told apart" in capsys.readouterr().err
