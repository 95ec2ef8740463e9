"""Sources of different kinds with the same images give the same index; what is no source is refused."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest
from helpers.images import member, write_folder, write_tar
from helpers.indexes import FILES, WANTED, indexed_images

from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_gives_the_same_index(tmp_path: Path, kind: int) -> None:
    long = "y" * 120
    files = {f"{long}/{long}/{name}" if kind != tarfile.USTAR_FORMAT else name: data for name, data in FILES.items()}
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        for name, data in files.items():
            tar.addfile(member(name, data), io.BytesIO(data))
    assert indexed_images(read_index([tmp_path / "a.tar"])) == WANTED


def test_folder_one_tar_and_several_tars_give_the_same_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {name[2:]: data for name, data in FILES.items()})
    one = write_tar(tmp_path / "1.tar", dict(list(FILES.items())[:2]))
    two = write_tar(tmp_path / "2.tar", dict(list(FILES.items())[2:]))
    whole = write_tar(tmp_path / "w.tar", FILES)
    indices = [read_index(paths) for paths in ([folder], [one, two], [two, one], [whole])]
    assert all(indexed_images(index) == WANTED for index in indices)
    assert len({tuple(split_index.digest() for split_index in index.split_indexes) for index in indices}) == 1
    assert indices[3].sources[0].bytes == whole.stat().st_size


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 2000, mtime=0), "compressed with gzip.*; gunzip it once"),
        (lzma.compress(b"x" * 2000), "compressed with xz.*; unxz it once"),
        (bz2.compress(b"x" * 2000), "compressed with bzip2.*; bunzip2 it once"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd.*; unzstd it once"),
        (b"PK\x03\x04" + bytes(600), "a zip archive.*; unzip it once"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7z archive.*; unpack it once"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF picture, not a data set"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(600), "a JPEG 2000 picture"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "a JPEG picture"),
        (b"", "neither a tar"),
        (b"short", "neither a tar"),
    ],
)
def test_files_that_are_no_archive_are_refused_as_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_index([tmp_path / "a.tar"])
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such source"):
        read_index([tmp_path / "none.tar"])


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(SourceError, match="a pipe, which cannot be read in place"):
        read_index([tmp_path / "a.tar"])


def test_the_same_source_twice_is_refused(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", FILES)
    (tmp_path / "b.tar").symlink_to(source)
    with pytest.raises(SourceError, match=r"b\.tar: given twice"):
        read_index([source, tmp_path / "b.tar"])


def test_source_without_images_is_refused_with_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train,val.*<class>.*found .*a/b\.JPEG"):
        read_index([write_tar(tmp_path / "a.tar", {"a/b.JPEG": b"1"})])
