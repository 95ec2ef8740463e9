"""The official archives of ILSVRC 2012."""

from pathlib import Path

import pytest
from helpers.images import META_MAT, WNIDS, devkit, inner_tar, write_tar
from helpers.indexes import indexed_images, left_out

from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


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
        assert indexed_images(found) == indexed_images(expected)
        assert [each.digest() for each in found.split_indexes] == [each.digest() for each in expected.split_indexes]
    assert read_index(paths).classes == tuple(sorted(WNIDS[:3]))


def test_what_is_no_image_is_counted_wherever_it_stands(tmp_path: Path) -> None:
    paths, same = official(tmp_path)
    wanted = read_index([write_tar(tmp_path / "sorted.tar", same)])
    junk = {"._n01.tar": b"\0\5\x16\7", "labels.txt": b"x", ".DS_Store": b"y"}
    inner = {"./.DS_Store": b"y", "._n_1.JPEG": b"z", "Thumbs.db": b"\xd0\xcf", "@eaDir/n_1.JPEG": b"t"}
    train = {name: data for name, data in same.items() if "/train/" in name}
    inners = {wnid: {n.split("/")[3]: data for n, data in train.items() if wnid in n} for wnid in WNIDS[:3]}
    write_tar(paths[0], junk | {f"./{wnid}.tar": inner_tar(inner | files) for wnid, files in inners.items()})
    index = read_index(paths)
    assert indexed_images(index) == indexed_images(wanted)
    assert left_out(index) == {"other files": len(junk) + 3 * (len(inner) - 1), "images in hidden folders": 3}


def test_devkit_that_does_not_match_the_images_is_refused(tmp_path: Path) -> None:
    paths, _ = official(tmp_path)
    devkit(paths[2], [1, 2])
    with pytest.raises(SourceError, match="among 2 labels"):
        read_index(paths)
    devkit(paths[2], [1, 2, 3, 99, 1])
    with pytest.raises(SourceError, match="do not match"):
        read_index(paths)
    devkit(paths[2], [1], synsets=META_MAT[:200])
    with pytest.raises(SourceError, match="do not match"):
        read_index(paths)
    paths[2].write_bytes(paths[2].read_bytes()[:150])
    with pytest.raises(SourceError):
        read_index(paths)


def test_tar_in_a_tar_is_a_folder(tmp_path: Path) -> None:
    """Of a class in the folder of its split, of a whole split, and beside sorted images, where it is no class."""
    same = {"train/a/1.JPEG": b"1", "train/b/2.JPEG": b"2", "val/a/3.JPEG": b"3", "val/b/4.JPEG": b"4"}
    wanted = read_index([write_tar(tmp_path / "sorted.tar", same)])
    classes = {name[:-7] + ".tar": inner_tar({name[-6:]: data}) for name, data in same.items()}
    splits = {"train.tar": inner_tar({"a/1.JPEG": b"1", "b/2.JPEG": b"2"})}
    splits |= {"val.tar": inner_tar({"a/3.JPEG": b"3", "b/4.JPEG": b"4"})}
    for files in (classes, splits):
        assert indexed_images(read_index([write_tar(tmp_path / "a.tar", files)])) == indexed_images(wanted)
    with pytest.raises(SourceError, match=r"x\.JPEG: images outside of .*: 1 of 5"):
        read_index([write_tar(tmp_path / "a.tar", {"more.tar": inner_tar({"x.JPEG": b"x"})} | same)])


def test_folders_in_a_tar_in_a_tar_are_kept(tmp_path: Path) -> None:
    """As they are in a folder; pictures of one name in two of them are no repetition."""
    inner = {"a.tar": inner_tar({"1.JPEG": b"1", "x/1.JPEG": b"2", "y/1.JPEG": b"3"})}
    inner["b.tar"] = inner_tar({"b/1.JPEG": b"4", "./b/2.JPEG": b"5"})
    found = indexed_images(read_index([write_tar(tmp_path / "a.tar", inner)]))
    assert [key for _, key, _ in found["train", None]] == [
        "a/1.JPEG",
        "a/x/1.JPEG",
        "a/y/1.JPEG",
        "b/1.JPEG",
        "b/2.JPEG",
    ]
    classes = {"all.tar": inner_tar({"a/1.JPEG": b"1", "b/1.JPEG": b"2"})}
    with pytest.raises(SourceError, match=r"one folder, all, with folders in it \(a, b, \.\.\.\)"):
        read_index([write_tar(tmp_path / "a.tar", classes)])


@pytest.mark.parametrize(
    ("name", "split"), [("val", "val"), ("my_validation", "val"), ("ILSVRC2012_img_train", "train")]
)
@pytest.mark.parametrize("form", ["folders", "tars"])
def test_tar_of_classes_may_say_its_split_in_its_name(tmp_path: Path, name: str, split: str, form: str) -> None:
    files = {"a/1.JPEG": b"1", "b/2.JPEG": b"2"}
    tars = {f"{each[0]}.tar": inner_tar({each[2:]: data}) for each, data in files.items()}
    path = write_tar(tmp_path / f"{name}.tar", files if form == "folders" else tars)
    assert read_index([path]).images() == {split: 2}


def test_archives_are_read_in_two_levels_and_whole(tmp_path: Path) -> None:
    paths, _ = official(tmp_path)
    with pytest.raises(SourceError, match=r"one\.tar: a tar in a tar in a tar, n\d+\.tar; unpack a\.tar"):
        read_index([write_tar(tmp_path / "a.tar", {"one.tar": paths[0].read_bytes()})])
    with pytest.raises(SourceError, match=r"n02\.tar: empty"):
        read_index([write_tar(tmp_path / "a.tar", {"n01.tar": inner_tar({"1.JPEG": b"1"}), "n02.tar": b""})])


def test_truncated_inner_archive_is_refused(tmp_path: Path) -> None:
    whole = inner_tar({"n01_1.JPEG": b"x" * 600, "n01_2.JPEG": b"y" * 600})
    path = write_tar(tmp_path / "a.tar", {"n01.tar": whole[: 512 + 1024 + 512]})
    with pytest.raises(SourceError, match=r"n01\.tar: ends early, within n01_2\.JPEG"):
        read_index([path])
