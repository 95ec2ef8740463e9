"""The index: what each kind of source holds, what is refused, and that all kinds agree."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.images import META_MAT, WNIDS, devkit, inner_tar, member, write_folder, write_tar

from data_tools.beton.classes import expected_dataset, number_classes, shortfalls
from data_tools.sources import ilsvrc, image_folder
from data_tools.sources.index import Index
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError, members


def rows(index: Index) -> dict[tuple[str, int | None], list[tuple[int, str, bytes]]]:
    """(label, key, bytes) of every image, read at its place."""
    out = {}
    for split_index in index.split_indexes:
        found = []
        for sample in range(len(split_index)):
            file, offset, length = split_index.places[sample].tolist()
            path = index.files[file].path
            if index.files[file].kind == "folder":
                path = f"{path}/{split_index.key(sample)}"
            content = Path(path).read_bytes()[offset : offset + length]
            found.append((int(split_index.labels[sample]), split_index.key(sample), content))
        out[split_index.split, split_index.cap] = found
    return out


FILES = {
    "x/train/n02/b.JPEG": b"2b",
    "x/train/n01/b.JPEG": b"1b..",
    "x/validation/n02/v.JPEG": b"2v",
    "x/train/n01/a.JPEG": b"1a",
    "x/train/n02/Z.JPEG": b"2Z" * 400,
}
WANTED = {
    ("train", None): [
        (0, "n01/a.JPEG", b"1a"),
        (0, "n01/b.JPEG", b"1b.."),
        (1, "n02/Z.JPEG", b"2Z" * 400),
        (1, "n02/b.JPEG", b"2b"),
    ],
    ("val", None): [(1, "n02/v.JPEG", b"2v")],
}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sorted_tar_of_any_format(tmp_path: Path, kind: int) -> None:
    long = "y" * 120
    files = {f"{long}/{long}/{name}" if kind != tarfile.USTAR_FORMAT else name: data for name, data in FILES.items()}
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        for name, data in files.items():
            tar.addfile(member(name, data), io.BytesIO(data))
    assert rows(read_index([tmp_path / "a.tar"])) == WANTED


def test_folder_tar_and_several_tars_agree(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {name[2:]: data for name, data in FILES.items()})
    one = write_tar(tmp_path / "1.tar", dict(list(FILES.items())[:2]))
    two = write_tar(tmp_path / "2.tar", dict(list(FILES.items())[2:]))
    whole = write_tar(tmp_path / "w.tar", FILES)
    indices = [read_index(paths) for paths in ([folder], [one, two], [two, one], [whole])]
    assert all(rows(index) == WANTED for index in indices)
    assert len({tuple(split_index.digest() for split_index in index.split_indexes) for index in indices}) == 1
    assert indices[3].sources[0].bytes == whole.stat().st_size


def test_digest_notices_every_change() -> None:
    def digest(files: dict[str, bytes], where: Path) -> str:
        return read_index([write_tar(where, files)]).split_indexes[0].digest()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "a.tar"
        base = {"train/a/x": b"1", "train/b/y": b"22"}
        changed = [
            {"train/a/x": b"1", "train/b/z": b"22"},
            {"train/a/x": b"1", "train/b/y": b"2"},
            {"train/a/x": b"1", "train/c/y": b"22"},
            {"train/a/x": b"1", "train/a/y": b"22"},
        ]
        assert len({digest(each, at) for each in [base, *changed]}) == 5


def test_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    files = {"train/b/1": b"x", "val/a/2": b"x", "val/b/3": b"x", "train/c/4": b"x"}
    index = read_index([write_tar(tmp_path / "a.tar", files)])
    assert index.classes == ("a", "b", "c")
    assert [label for label, *_ in rows(index)["val", None]] == [0, 1]


def test_resized_archive(tmp_path: Path) -> None:
    files = {
        f"imagenet-sz/{cap}/{split}/c/{name}": f"{cap}{split}{name}".encode()
        for cap in (160, 320, 352)
        for split, name in (("train", "t.JPEG"), ("validation", "v.JPEG"))
    }
    index = read_index([write_tar(tmp_path / "sz.tar", files)])
    assert set(rows(index)) == {(split, cap) for split in ("train", "val") for cap in (160, 320, 352)}
    assert rows(index)["train", 320] == [(0, "c/t.JPEG", b"320traint.JPEG")]
    folder = write_folder(tmp_path, files) / "imagenet-sz"
    assert rows(read_index([folder])) == rows(index)
    assert set(rows(read_index([folder / "320"]))) == {("train", 320), ("val", 320)}


def test_a_year_above_the_split_is_no_cap() -> None:
    assert image_folder.locate("data/2012/train/c/x.JPEG") == ("train", None, "c", "x.JPEG")
    assert image_folder.locate("imagenet-sz/160/train/c/x.JPEG") == ("train", 160, "c", "x.JPEG")
    assert image_folder.locate("./train/./c/x.JPEG") == ("train", None, "c", "x.JPEG")
    assert image_folder.locate("train/c/.DS_Store") is None
    assert image_folder.locate("README") is None


def test_resized_and_original_images_must_be_the_same(tmp_path: Path) -> None:
    files = {"x-sz/160/train/c/a": b"1", "y/train/c/a": b"2", "y/train/c/b": b"2"}
    with pytest.raises(SourceError, match="same images"):
        read_index([write_tar(tmp_path / "a.tar", files)])


def test_other_files_are_counted_and_named(tmp_path: Path) -> None:
    index = read_index([write_tar(tmp_path / "a.tar", FILES | {"x/README": b"hello", "x/train/n01/.DS_Store": b""})])
    assert rows(index) == WANTED
    assert index.ignored == 2
    assert "README" in index.ignored_example


def test_duplicates_are_refused(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", FILES)
    two = write_tar(tmp_path / "2.tar", {"other/train/n01/b.JPEG": b"another"})
    with pytest.raises(SourceError, match=r"1\.tar and .*2\.tar: train/n01/b\.JPEG is there twice"):
        read_index([one, two])


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "/etc/passwd"}, "points outside"),
        ({"name": "x/../../train/c/y"}, "points outside"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "x/train/c/a"}, "hard link"),
        ({"type": tarfile.CHRTYPE}, "character device"),
        ({"type": tarfile.BLKTYPE}, "block device"),
        ({"type": tarfile.FIFOTYPE}, "pipe"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "sparse"),
    ],
)
def test_hostile_members_are_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    info = tarfile.TarInfo("x/train/c/evil")
    for key, value in change.items():
        setattr(info, key, value)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member("x/train/c/a", b"1"), io.BytesIO(b"1"))
        tar.addfile(info)
    with pytest.raises(SourceError, match=words) as caught:
        read_index([path])
    assert str(path) in str(caught.value)
    assert info.name in str(caught.value)


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """tarfile itself reads many of these without a word: those cut where a member ends."""
    whole = write_tar(tmp_path / "w.tar", {f"x/train/c/{at}": b"y" * 700 for at in range(4)}).read_bytes()
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


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", FILES).read_bytes())
    content[1024 + 150] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"no tar header at byte 1024, after x/train/n02/b\.JPEG"):
        read_index([tmp_path / "a.tar"])


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {name[2:]: data for name, data in FILES.items()})
    (folder / "train/n01/evil.JPEG").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match=r"evil\.JPEG: a symbolic link"):
        read_index([folder])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 2000, mtime=0), "gunzip"),
        (b"PK\x03\x04" + bytes(600), "neither a tar"),
        (b"", "neither a tar"),
        (b"short", "neither a tar"),
    ],
)
def test_other_files_are_no_source(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_index([tmp_path / "a.tar"])
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such source"):
        read_index([tmp_path / "none.tar"])


def test_a_source_without_images_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train,val.*<class>.*found .*a/b\.JPEG"):
        read_index([write_tar(tmp_path / "a.tar", {"a/b.JPEG": b"1"})])


# ---------------------------------------------------------------------------------------------- ILSVRC
def official(folder: Path) -> tuple[list[Path], dict[str, bytes]]:
    """The three official archives in small, under names that say nothing, and the same as a sorted tar's members."""
    train = {wnid: {f"{wnid}_{at}.JPEG": f"{wnid}{at}".encode() * 50 for at in (9, 10, 1)} for wnid in WNIDS[:3]}
    truth = [2, 1, 3, 3, 1]
    val = {f"ILSVRC2012_val_{at + 1:08d}.JPEG": f"val{at}".encode() * 99 for at in range(len(truth))}
    paths = [
        write_tar(folder / "one", {f"{wnid}.tar": inner_tar(files) for wnid, files in train.items()}),
        write_tar(folder / "two", val),
        devkit(folder / "three", truth),
    ]
    same = {f"x/train/{wnid}/{name}": data for wnid, files in train.items() for name, data in files.items()}
    same |= {f"x/val/{WNIDS[truth[at] - 1]}/{name}": data for at, (name, data) in enumerate(val.items())}
    return paths, same


def test_official_archives_equal_the_sorted_tar(tmp_path: Path) -> None:
    paths, same = official(tmp_path)
    expected = read_index([write_tar(tmp_path / "sorted.tar", same)])
    for order in (paths, paths[::-1]):
        found = read_index(order)
        assert rows(found) == rows(expected)
        assert [each.digest() for each in found.split_indexes] == [each.digest() for each in expected.split_indexes]
    assert read_index(paths).classes == tuple(sorted(WNIDS[:3]))


def test_validation_images_need_the_devkit(tmp_path: Path) -> None:
    paths, _ = official(tmp_path)
    with pytest.raises(SourceError, match="devkit_t12"):
        read_index(paths[:2])


def test_a_devkit_that_does_not_fit(tmp_path: Path) -> None:
    paths, _ = official(tmp_path)
    devkit(paths[2], [1, 2])
    with pytest.raises(SourceError, match="labels for images 1 to 2"):
        read_index(paths)
    devkit(paths[2], [1, 2, 3, 99, 1])
    with pytest.raises(SourceError, match="do not go together"):
        read_index(paths)
    devkit(paths[2], [1], synsets=META_MAT[:200])
    with pytest.raises(SourceError, match="do not go together"):
        read_index(paths)
    paths[2].write_bytes(paths[2].read_bytes()[:150])
    with pytest.raises(SourceError):
        read_index(paths)


def test_an_inner_archive_that_ends_early(tmp_path: Path) -> None:
    whole = inner_tar({"n01_1.JPEG": b"x" * 600, "n01_2.JPEG": b"y" * 600})
    path = write_tar(tmp_path / "a.tar", {"n01.tar": whole[: 512 + 1024]})
    with pytest.raises(SourceError, match=r"n01\.tar: ends early, after n01_1\.JPEG"):
        read_index([path])


def test_synsets_of_scipy_and_of_small_elements() -> None:
    assert [(int(each["ILSVRC2012_ID"]), each["WNID"]) for each in ilsvrc.read_synsets(META_MAT)] == list(
        enumerate(WNIDS, 1)
    )
    with pytest.raises(ValueError, match="level 5"):
        ilsvrc.read_synsets(b"MATLAB 7.3 MAT-file" + bytes(200))

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    name = struct.pack("<HH4s", 1, 1, b"x")  # type and size in one word, as MATLAB writes what fits 4 bytes
    other = element(
        14, element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", 1, 1)) + name + element(9, bytes(8))
    )
    content = META_MAT[:128] + other + META_MAT[128:]
    assert len(ilsvrc.read_synsets(content)) == 5


# ---------------------------------------------------------------------------------------------- parquet
def shard(
    path: Path, images: list[tuple[str | None, int, bytes]], names: list[str] | None = None, group: int = 2
) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = pyarrow.array(
        [{"bytes": data, "path": name} for name, _, data in images],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    table = pyarrow.table({"image": image, "label": pyarrow.array([label for _, label, _ in images], pyarrow.int64())})
    if names:
        import json

        noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_parquet_of_imagenet_equals_the_sorted_tar(tmp_path: Path) -> None:
    from data_tools.sources.parquet import Rows

    hub = tmp_path / "data"
    hub.mkdir()
    images = [
        ("n00000002_7_n00000002.JPEG", 1, b"2-7"),
        ("n00000001_9_n00000001.JPEG", 0, b"1-9"),
        ("n00000001_10_n00000001.JPEG", 0, b"1-10"),
    ]
    shard(hub / "train-00000-of-00002.parquet", images[:2], ["tench, Tinca", "a goldfish"])
    shard(hub / "train-00001-of-00002.parquet", images[2:], ["tench, Tinca", "a goldfish"])
    shard(hub / "validation-00000-of-00001.parquet", [("ILSVRC2012_val_00000003_n00000002.JPEG", 1, b"v")])
    shard(hub / "test-00000-of-00001.parquet", [("ILSVRC2012_test_00000001.JPEG", -1, b"t")])
    index = read_index([tmp_path])
    assert read_index([hub]).classes == index.classes == ("n00000001", "n00000002")
    same = {
        "x/train/n00000002/n00000002_7.JPEG": b"2-7",
        "x/train/n00000001/n00000001_9.JPEG": b"1-9",
        "x/train/n00000001/n00000001_10.JPEG": b"1-10",
        "x/val/n00000002/ILSVRC2012_val_00000003.JPEG": b"v",
    }
    expected = read_index([write_tar(tmp_path / "a.tar", same)])
    for split_index, wanted in zip(index.split_indexes, expected.split_indexes, strict=True):
        assert [split_index.key(at) for at in range(len(split_index))] == [wanted.key(at) for at in range(len(wanted))]
        assert split_index.labels.tolist() == wanted.labels.tolist()
        assert split_index.order is not None
        for at in range(len(split_index)):
            file, offset, _ = split_index.places[at].tolist()
            assert Rows(index.files[file].path).image(offset) == rows(expected)[split_index.split, None][at][2]
    lying = index.split_indexes[0].places[index.split_indexes[0].order]
    assert np.all(np.diff(lying["file"].astype(np.int64)) >= 0)
    assert index.ignored == 1


def test_rows_of_parquet_in_any_order(tmp_path: Path) -> None:
    from data_tools.sources.parquet import Rows

    images = [(f"{at}.JPEG", at % 3, f"image {at}".encode()) for at in range(300)]
    path = shard(tmp_path / "train.parquet", images, group=120)
    opened = Rows(str(path))
    for at in [0, 1, 119, 120, 299, 5, 130, 129]:
        assert opened.image((at // 120) << 32 | at % 120) == images[at][2]


def test_parquet_classes_without_wnids(tmp_path: Path) -> None:
    named = shard(tmp_path / "train-a.parquet", [("1.png", 0, b"x"), (None, 1, b"y")], ["zebra", "ape/monkey"])
    assert read_index([named]).classes == ("ape_monkey", "zebra")
    numbered = shard(tmp_path / "train-b.parquet", [("1.png", 2, b"x"), ("2.png", 10, b"y")])
    assert read_index([numbered]).classes == ("02", "10")


def test_parquet_refusals(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="of which split"):
        read_index([shard(tmp_path / "some.parquet", [("1.png", 0, b"x")])])
    with pytest.raises(SourceError, match="has no label"):
        read_index([shard(tmp_path / "train.parquet", [("1.png", -1, b"x")])])
    clash = [("n00000001_1.JPEG", 0, b"x"), ("n00000002_1.JPEG", 0, b"x")]
    with pytest.raises(SourceError, match="label 0 is n00000001 and n00000002"):
        read_index([shard(tmp_path / "train.parquet", clash)])
    whole = shard(tmp_path / "train.parquet", [("1.png", 0, b"x" * 999)]).read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:-50])
    with pytest.raises(SourceError, match="not a whole parquet file"):
        read_index([tmp_path / "train.parquet"])


# ---------------------------------------------------------------------------------------------- expectations
def test_what_is_expected() -> None:
    wnids = number_classes(f"n{at:08d}" for at in range(1000))
    assert expected_dataset(wnids) == "imagenet1k"
    assert expected_dataset(wnids[:999]) == "any"
    assert expected_dataset((*wnids[:999], "dog")) == "any"
    assert shortfalls(wnids, {"train": 1_281_167, "val": 50_000}) == []
    assert len(shortfalls(wnids, {"train": 1_281_166})) == 2


def test_tar_members_of_a_range(tmp_path: Path) -> None:
    inner = inner_tar({"a": b"1", "b": b"22"})
    path = write_tar(tmp_path / "o.tar", {"i.tar": inner})
    found = list(members(path, 512, 512 + len(inner)))
    assert [(each.name, path.read_bytes()[each.offset : each.offset + each.length]) for each in found] == [
        ("a", b"1"),
        ("b", b"22"),
    ]
