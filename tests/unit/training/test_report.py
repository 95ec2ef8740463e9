"""Mistakes and damaged run folders end the report in one line with status 2, before anything is drawn."""

from pathlib import Path

import pytest
from helpers.run_folders import run_folder

from training import report


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("epochs.csv", None, "no epochs.csv here; give a run folder"),
        ("epochs.csv", b"", "no column"),
        ("epochs.csv", b"\xff\xfe\x00", "damaged"),
        ("epochs.csv", b"epoch,hours\n1,2\n", "no column data_wait_percent, "),
        ("config.json", None, "config.json: missing"),
        ("config.json", b"{", "config.json: damaged"),
        ("config.json", b"[]", "config.json: damaged"),
        ("config.json", b'{"schedule": {"phases": 3}}', "phases: 3 is not a list"),
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:1], "no epoch is complete yet"),
        (lambda lines: [*lines[:2], lines[2][:20]], "row 2: not 20 cells"),
        (lambda lines: [*lines[:2], lines[2].replace("128", "12x8")], "row 2: invalid literal"),
        (lambda lines: [lines[0], lines[2], lines[1]], "not in order"),
        (lambda lines: [*lines, '3,"'], "row 3:"),
    ],
)
def test_damaged_epochs_csv_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], change, said: str) -> None:
    folder = run_folder(tmp_path / "run", [50, 60])
    table = folder / "epochs.csv"
    table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
    assert report.main([str(folder)]) == 2
    assert said in capsys.readouterr().err


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", [50])
    assert report.main([str(tmp_path / "none")]) == 2
    assert "no such folder; give a run folder" in capsys.readouterr().err
    assert report.main([str(folder), str(folder)]) == 2
    assert "given twice" in capsys.readouterr().err
    others = [str(run_folder(tmp_path / str(i), [50], argv=[f"--train.momentum=0.{i + 1}"])) for i in range(7)]
    assert report.main(others) == 2
    assert "7 runs; at most 6 of several recipes can be told apart" in capsys.readouterr().err
    for price in ("nan", "-1", "x"):
        assert report.main([str(folder), "--price", price]) == 2
        assert "price" in capsys.readouterr().err
