"""Reading tar members: hostile, truncated and damaged archives are refused."""

import io
import itertools
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from helpers.images import member, write_tar
from helpers.indexes import FILES

from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError, members


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "/etc/passwd"}, "points outside"),
        ({"name": "x/../../train/c/y"}, "points outside"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "hard link to /etc/passwd, which does not come before"),
        ({"type": tarfile.LNKTYPE, "linkname": "x/train/c/later.JPEG"}, "hard link to x/train/c/later.JPEG"),
        ({"type": tarfile.LNKTYPE, "linkname": "x/train/c/evil.JPEG"}, "hard link"),
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
        tar.addfile(member("x/train/c/later.JPEG", b"1"), io.BytesIO(b"1"))
    with pytest.raises(SourceError, match=words) as caught:
        read_index([path])
    assert str(path) in str(caught.value)
    assert info.name in str(caught.value)


def test_truncated_archive_is_refused_unless_it_ends_with_a_member(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One or no zero block at the end is no fault for GNU tar; a warning says where it ends."""
    whole = write_tar(tmp_path / "w.tar", {f"x/train/c/{at}.JPEG": b"y" * 700 for at in range(4)}).read_bytes()
    member, end = 512 + 1024, 4 * (512 + 1024)
    for cut in range(512, end + 1024 + 1, 256):
        path = tmp_path / f"{cut}.tar"
        path.write_bytes(whole[:cut])
        listed = subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=False)
        if (cut % member == 0 and cut <= end) or cut >= end + 512:
            assert listed.returncode == 0
            assert [each.name for each in members(path)] == listed.stdout.splitlines()
            assert (f"{cut}.tar: no end mark after" in caplog.text) == (cut <= end)
        else:
            with pytest.raises(SourceError, match="ends early"):
                list(members(path))


def test_damaged_header_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", FILES).read_bytes())
    content[1024 + 150] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"no tar header at byte 1024, after x/train/n02/b\.JPEG"):
        read_index([tmp_path / "a.tar"])


def contents(path: Path) -> dict[str, bytes]:
    """What is read of an archive, by name."""
    data = path.read_bytes()
    return {each.name.removeprefix("./"): data[each.offset : each.offset + each.length] for each in members(path)}


def by_tarfile(path: Path) -> dict[str, bytes]:
    """What tarfile reads of it, hard links included."""
    with tarfile.open(path, errors="surrogateescape") as tar:
        files = [info for info in tar if info.isreg() or info.islnk()]
        return {info.name.removeprefix("./"): tar.extractfile(info).read() for info in files}


def entry(name: str, data: bytes = b"", **fields: object) -> bytes:
    """A header, in the old GNU format, and the data; `fields` of the header may contradict them."""
    info = member(name, data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(10240)
FILE = entry("x/train/c/a", b"aa")


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_writes_is_read_as_tarfile_reads_it(tmp_path: Path, form: str) -> None:
    """Long names, names of any bytes, hard links, empty files, a volume label, odd sizes of records."""
    short = form in ("ustar", "v7")
    folder = tmp_path / "tree"
    names = [b"a", b"caf\xe9", "größe".encode(), b"e\nf", b"y" * (60 if short else 200)]
    for at, (one, two) in enumerate(itertools.product(names, names)):
        if not short or len(one) + len(two) < 80:
            image = folder / "train" / os.fsdecode(one) / os.fsdecode(two)
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"%d" % at * 97 * at)
    (folder / "train/b").mkdir()
    os.link(folder / "train/a/a", folder / "train/b/link")
    os.link(folder / "train/b/link", folder / "train/b/link2")
    label = [] if form in ("ustar", "v7") else ["--label=backup"]
    path = tmp_path / "a.tar"
    for more in ([], ["--blocking-factor=99"], ["--sort=name"]):
        subprocess.run(["tar", f"--format={form}", *label, *more, "-cf", path, "-C", folder, "."], check=True)
        found = contents(path)
        assert found == by_tarfile(path) and len(found) > 15
        assert {name.encode("utf-8", "surrogateescape") for name in found} == {
            os.path.relpath(os.fsencode(each), os.fsencode(folder)) for each in folder.rglob("*") if each.is_file()
        }
        assert found["train/b/link"] == found["train/a/a"] == found["train/b/link2"]


@pytest.mark.parametrize(
    ("content", "files"),
    [
        (entry("x/train/", type=tarfile.DIRTYPE, size=4096) + FILE, {"x/train/c/a": b"aa"}),
        (entry("x/train/", type=tarfile.AREGTYPE) + FILE, {"x/train/c/a": b"aa"}),
        (entry("label", type=b"V") + FILE, {"x/train/c/a": b"aa"}),
        (entry("x/train/", b"Ya\0\0", type=b"D") + FILE, {"x/train/c/a": b"aa"}),
        (
            FILE + entry("x/train/c/b", type=tarfile.LNKTYPE, linkname="./x/train//c/a", size=2) + FILE,
            {"x/train/c/a": b"aa", "x/train/c/b": b"aa"},
        ),
    ],
    ids=["folder with a size", "V7 folder", "volume label", "folder of an incremental archive", "link with a size"],
)
def test_entries_without_an_image_are_passed_over(tmp_path: Path, content: bytes, files: dict[str, bytes]) -> None:
    (tmp_path / "a.tar").write_bytes(content + END)
    assert contents(tmp_path / "a.tar") == files


def test_hard_link_leads_to_the_last_member_of_that_name_before_it(tmp_path: Path) -> None:
    link = {"type": tarfile.LNKTYPE, "linkname": "a"}
    parts = [entry("a", b"1"), entry("b", **link), entry("a", b"22"), entry("c", **link), entry("a", b"333")]
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + entry("d", **link | {"linkname": "b"}) + END)
    assert contents(tmp_path / "a.tar") == {"a": b"333", "b": b"1", "c": b"22", "d": b"1"}


def test_pax_headers_hold_for_one_member_or_for_all(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of git"}) as tar:
        for name in ("x/" + "ä" * 120, "b", "c" * 300):
            tar.addfile(member(name, b"1"), io.BytesIO(b"1"))
    assert contents(tmp_path / "a.tar") == by_tarfile(tmp_path / "a.tar") != {}


@pytest.mark.parametrize(
    "records", [b"9" * 5000 + b" a=b\n", b"11 size=x\n", b"12 size=-9\n", b"23 GNU.sparse.major=1\n"]
)
def test_damaged_pax_header_is_refused(tmp_path: Path, records: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(entry("pax", records, type=tarfile.XHDTYPE) + FILE + END)
    with pytest.raises(SourceError):
        list(members(tmp_path / "a.tar"))


def test_name_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(entry("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 30))
        file.truncate(2 << 30)
    with pytest.raises(SourceError, match=r"\(1073741824 bytes\)"):
        list(members(tmp_path / "a.tar"))


def test_times_in_place_of_the_prefix_are_no_part_of_the_name(tmp_path: Path) -> None:
    """As in incremental archives of GNU tar."""
    header = bytearray(entry("x/train/c/a"))
    header[345:357] = b"14731234567\0"
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(header) + END)
    assert list(contents(tmp_path / "a.tar")) == ["x/train/c/a"]


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_later_volume_is_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / "image").write_bytes(b"x" * 30000)
    volumes = ["-cML", "20", "-f", "1.tar", "--new-volume-script=echo 2.tar >&$TAR_FD"]
    subprocess.run(["tar", f"--format={form}", *volumes, "image"], cwd=tmp_path, check=True)
    with pytest.raises(SourceError, match=r"2\.tar: begins within image: .*tar -xM"):
        list(members(tmp_path / "2.tar"))
    with pytest.raises(SourceError, match="ends early, within image"):
        list(members(tmp_path / "1.tar"))


@pytest.mark.parametrize("padding", [512, 1024, 10240, 3 << 20])
def test_concatenated_archives_are_read_on(tmp_path: Path, padding: int) -> None:
    (tmp_path / "a.tar").write_bytes(FILE + bytes(padding) + entry("x/train/c/b", b"b") + END + END)
    assert contents(tmp_path / "a.tar") == {"x/train/c/a": b"aa", "x/train/c/b": b"b"}
    outer = write_tar(tmp_path / "o.tar", {"i.tar": (tmp_path / "a.tar").read_bytes()})
    inner = next(members(outer))
    assert [each.name for each in members(outer, inner.offset, inner.offset + inner.length)] == list(
        contents(tmp_path / "a.tar")
    )


@pytest.mark.parametrize("rest", [b"PK\3\4", bytes(512) + b"x" * 600, bytes(100) + FILE])
def test_something_else_after_the_end_is_refused(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(FILE + bytes(10240) + rest)
    with pytest.raises(SourceError, match="something that is not a tar, from byte") as caught:
        list(members(tmp_path / "a.tar"))
    assert caught.value.where == str(tmp_path / "a.tar") and caught.value.remedy
