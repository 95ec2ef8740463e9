"""The reader of images names what it could not read."""

import errno
import os
import resource
from pathlib import Path

import pyarrow
import pytest
from helpers.images import write_folder, write_tar
from pyarrow import parquet

from data_tools.common.errors import UserError
from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_limit_on_open_files_is_named_with_its_remedy(tmp_path: Path, kind: str) -> None:
    source = tmp_path / f"train.{kind}"
    if kind == "tar":
        write_tar(source, {"train/000/1.png": b"1"})
    else:
        parquet.write_table(pyarrow.table({"image": [b"1"], "label": [0]}), source)
    index = read_index([source])
    (split,) = index.split_indexes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(UserError, match=r"too many open files: the limit is 3; .*ulimit -n") as fault:
            Reader(index.files).read(*split.places[0].tolist(), split.key(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert fault.value.where == str(source)


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


@pytest.mark.parametrize("content", [b"", b"12345"])
def test_image_that_has_another_length_by_now_is_named(tmp_path: Path, content: bytes) -> None:
    """One that has grown would look like one that is cut short."""
    index = read_index([write_folder(tmp_path, {"train/a/1.png": b"123"})])
    (split,) = index.split_indexes
    (tmp_path / "train/a/1.png").write_bytes(content)
    with pytest.raises(OSError, match=r"train/a/1\.png: a/1\.png: no longer 3 bytes; has the source changed"):
        Reader(index.files).read(*split.places[0].tolist(), split.key(0))
