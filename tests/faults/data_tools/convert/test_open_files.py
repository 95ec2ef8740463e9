"""The limit on open files, as `ulimit -n` sets it: more sources than it allows, and one that is too low to work."""

import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from helpers import ROOT
from helpers.images import jpeg, photo, write_tar
from pyarrow import parquet

SOURCES = 120


def write_sources(folder: Path, kind: str) -> list[Path]:
    """Sources of one image each."""
    data = jpeg(photo(0, 32, 24))
    paths = [folder / f"train-{at:03d}.{kind}" for at in range(SOURCES)]
    for at, path in enumerate(paths):
        if kind == "tar":
            write_tar(path, {f"train/{at % 7}/{at}.jpg": data})
        else:
            parquet.write_table(pyarrow.table({"image": [data], "label": [at % 7]}), path)
    return paths


def convert_with_limit(limit: int, sources: list[Path], out: Path) -> subprocess.CompletedProcess[str]:
    options = [
        f"--data.source={','.join(map(str, sources))}",
        f"--data.out={out}",
        "--data.splits=train",
        "--write.workers=2",
    ]
    command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", sys.executable, str(ROOT / "write_datasets.py")]
    return subprocess.run([*command, *options, "--data.caps=160"], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_more_sources_than_files_may_be_open_are_converted(tmp_path: Path, kind: str) -> None:
    done = convert_with_limit(100, write_sources(tmp_path, kind), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/train_160.beton").exists()


def test_too_low_limit_is_named_with_its_remedy(tmp_path: Path) -> None:
    done = convert_with_limit(12, write_sources(tmp_path, "tar"), tmp_path / "out")
    assert done.returncode == 2
    assert "too many open files: the limit is 12" in done.stderr
    assert "ulimit -n" in done.stderr
