"""The reader of images keeps few files open, and says so when even these are too many."""

import errno
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from helpers.images import write_tar
from pyarrow import parquet

from data_tools.common.errors import UserError
from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index

FILES = 60


@pytest.fixture(params=["tar", "parquet"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """One image each."""
    if request.param == "tar":
        return [write_tar(tmp_path / f"{at}.tar", {f"train/{at:03d}/1.png": bytes([at])}) for at in range(FILES)]
    paths = [tmp_path / f"train-{at:03d}.parquet" for at in range(FILES)]
    for at, path in enumerate(paths):
        parquet.write_table(pyarrow.table({"image": [bytes([at])], "label": [at]}), path)
    return paths


def open_files() -> int:
    gc.collect()  # what other tests left open
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def few_files() -> Iterator[None]:
    """Allow 30 files beyond those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_more_sources_are_read_than_files_may_be_open(sources: list[Path]) -> None:
    before = open_files()
    index = read_index(sources)
    assert open_files() == before
    (split,) = index.split_indexes
    reader = Reader(index.files)
    for at in (*range(FILES), 0, FILES - 1):
        assert reader.read(*split.places[at].tolist(), split.key(at)) == bytes([at])
    reader.close()
    assert open_files() == before


def test_limit_on_open_files_is_named_with_its_remedy(sources: list[Path]) -> None:
    index = read_index(sources)
    (split,) = index.split_indexes
    reader = Reader(index.files)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(UserError) as fault:
            reader.read(*split.places[0].tolist(), split.key(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert fault.value.what == "too many open files: the limit is 3"
    assert "ulimit -n" in fault.value.remedy
    assert fault.value.where == index.files[0].path


def test_disk_that_fails_is_named_with_the_archive_and_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    archive = write_tar(tmp_path / "images.tar", {"train/000/1.png": b"1"})
    index = read_index([archive])
    (split,) = index.split_indexes
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match=r"Input/output error \(.*1\.png\)") as error:
        Reader(index.files).read(*split.places[0].tolist(), split.key(0))
    assert error.value.filename == str(archive)
