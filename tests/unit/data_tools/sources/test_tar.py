"""Reading tar members: hostile, truncated and damaged archives are refused."""

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from helpers.images import inner_tar, member, write_tar
from helpers.indexes import FILES

from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError, members


def test_members_within_a_byte_range(tmp_path: Path) -> None:
    inner = inner_tar({"a": b"1", "b": b"22"})
    path = write_tar(tmp_path / "o.tar", {"i.tar": inner})
    found = members(path, 512, 512 + len(inner))
    contents = [(each.name, path.read_bytes()[each.offset : each.offset + each.length]) for each in found]
    assert contents == [("a", b"1"), ("b", b"22")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "/etc/passwd"}, "points outside"),
        ({"name": "x/../../train/c/y"}, "points outside"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "x/train/c/a.JPEG"}, "hard link"),
        ({"type": tarfile.CHRTYPE}, "character device"),
        ({"type": tarfile.BLKTYPE}, "block device"),
        ({"type": tarfile.FIFOTYPE}, "pipe"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "sparse"),
    ],
)
def test_hostile_members_are_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    info = tarfile.TarInfo("x/train/c/evil.JPEG")
    for key, value in change.items():
        setattr(info, key, value)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member("x/train/c/a.JPEG", b"1"), io.BytesIO(b"1"))
        tar.addfile(info)
    with pytest.raises(SourceError, match=words) as caught:
        read_index([path])
    assert str(path) in str(caught.value)
    assert info.name in str(caught.value)


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    """tarfile itself reads many of these without a word: those cut where a member ends."""
    whole = write_tar(tmp_path / "w.tar", {f"x/train/c/{at}.JPEG": b"y" * 700 for at in range(4)}).read_bytes()
    end = 4 * (512 + 1024)
    silent = 0
    for cut in range(512, end + 1024, 256):
        (tmp_path / "c.tar").write_bytes(whole[:cut])
        with pytest.raises(SourceError, match="ends early"):
            read_index([tmp_path / "c.tar"])
        with contextlib.suppress(tarfile.ReadError), tarfile.open(tmp_path / "c.tar") as tar:
            silent += bool(tar.getnames())
    assert silent > 3
    (tmp_path / "c.tar").write_bytes(whole[: end + 1024])
    assert len(read_index([tmp_path / "c.tar"]).split_indexes[0]) == 4


def test_damaged_header_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", FILES).read_bytes())
    content[1024 + 150] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"no tar header at byte 1024, after x/train/n02/b\.JPEG"):
        read_index([tmp_path / "a.tar"])
