"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from data_tools.common.files import is_address, write_atomically


@pytest.mark.parametrize("name", ["none/x.csv", "folder"])
def test_error_names_the_file_and_not_the_temporary_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as error:
        write_atomically(tmp_path / name, b"x")
    assert str(error.value).endswith(f": '{tmp_path / name}'")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ESTALE, True)]
)
def test_folder_that_cannot_be_synced_is_no_error_and_one_that_fails_is_named(
    number: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if fails:
        with pytest.raises(OSError) as error:
            write_atomically(tmp_path / "a", b"x")
        assert error.value.filename == str(tmp_path)
    else:
        write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_open_file_of_this_process_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:  # as /dev/stdout, which leads there
        write_atomically(Path(f"/dev/fd/{file.fileno()}"), b"content")
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_path_that_exists_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_address(Path("https://example.org/a.tar"))
    assert not is_address(tmp_path / "none")
    (tmp_path / "data:").mkdir()
    assert not is_address(Path("data:/"))
    (tmp_path / "data:/a.tar").touch()
    assert not is_address(Path("data:/a.tar"))
