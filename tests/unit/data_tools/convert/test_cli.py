"""What the conversion prints: progress where there is no terminal, the table at its end, and the next commands."""

import errno
import os
import re
import shlex
from pathlib import Path

import pytest

import write_datasets
from data_tools.convert import cli, estimate
from data_tools.convert.converter import Summary
from data_tools.convert.estimate import Estimate


@pytest.mark.parametrize(
    ("images", "line"),
    [(960, "1,460 of 10,000 images, 32 a second, 04:26 left\n"), (0, "500 of 10,000 images, 0 a second, ? left\n")],
)
def test_progress_in_a_log(
    images: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    progress = cli.ImageProgress()
    progress.show(500, 10_000)  # done before an interruption
    for step in range(1, 1501):
        now[0] += 1 / 32
        progress.show(500 + step * images // 960, 10_000)
    progress.close()
    assert capsys.readouterr() == ("", line)


def summaries(folder: Path, *caps: str) -> list[Summary]:
    paths = [folder / f"{split}_{cap}.beton" for split in ("train", "val") for cap in caps]
    return [Summary(path=path, images=1000, bad=7, bytes=17_000_000, seconds=2.0) for path in paths]


@pytest.mark.parametrize(
    ("caps", "recipe"), [(("160", "320", "full"), "rn50_configs/titan8.yaml"), (("500",), "RECIPE.yaml")]
)
def test_end_names_the_folder_and_the_next_commands(caps: tuple[str, ...], recipe: str) -> None:
    folder = Path("data/my betons")
    first, *commands = cli.next_steps(folder, summaries(folder, *caps)).splitlines()
    assert first.startswith("data/my betons is complete")
    verify, train = map(shlex.split, commands)
    assert verify[1:] == ["-m", "data_tools.verify", "data/my betons/*.beton"]
    assert train[1:] == ["train_imagenet.py", "--config-file", recipe, "--data.dir=data/my betons"]


def test_tables_have_one_unit_of_bytes_and_80_columns(tmp_path: Path) -> None:
    after = cli.table(summaries(tmp_path, "160", "full"), 5.0)
    before = estimate.table(
        [
            Estimate(
                path=tmp_path / "train_65535.beton",
                images=1_281_167,
                bytes=8e10,
                bytes_jpg=8e10,
                bytes_raw=8e11,
                minutes=9,
            )
        ],
        tmp_path,
    )
    for table in (before, after):
        assert set(re.findall(r"\b[KMGT]i?B\b", table)) == {"MB"}
        assert max(map(len, table.splitlines())) <= 80
    assert "80,000.0" in before
    assert "68.0" in after
    assert [line.split()[1:3] for line in after.splitlines()[:2]] == [["images", "bad"], ["1,000", "7"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data.source={0} --data.out={0}/file", "data.out: {0}/file is not a folder; give another folder"),
        ("--data.source={0} --data.out={0}/file/betons", "data.out: {0}/file is not a folder; give another folder"),
        ("--data.out={0}/out --data.source={0}/" + "x" * 300, "File name too long; fix that, or give another path"),
        ("--data.out={0}/out --data.source=s3://a/b", "s3:/a/b: an address; nothing is downloaded; give a path"),
        ("--data.source={0} --data.caps=16,016", "--data.caps: 16 is given twice"),
    ],
)
def test_mistake_is_one_line(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    (tmp_path / "file").touch()
    status = write_datasets.main(options.format(tmp_path).split())
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1), err
    assert message.format(tmp_path) in err


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EFBIG, "give another path"), (errno.EIO, "run the same command again"), (errno.ENOSPC, "make room")],
)
def test_failed_system_call_has_a_remedy_that_may_help(
    number: int, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "convert", fail)
    assert write_datasets.main([f"--data.source={tmp_path}", f"--data.out={tmp_path}"]) == 2
    assert remedy in capsys.readouterr().err
