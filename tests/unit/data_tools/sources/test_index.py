"""The index of a source: its digest, its classes, and which sets of images are refused."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pytest
from helpers.images import write_folder, write_tar
from helpers.indexes import FILES, indexed_images
from pyarrow import parquet

from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


def test_digest_changes_with_name_size_and_class(tmp_path: Path) -> None:
    sources = [
        {"train/a/x.JPEG": b"1", "train/b/y.JPEG": b"22"},
        {"train/a/x.JPEG": b"1", "train/b/z.JPEG": b"22"},
        {"train/a/x.JPEG": b"1", "train/b/y.JPEG": b"2"},
        {"train/a/x.JPEG": b"1", "train/c/y.JPEG": b"22"},
        {"train/a/x.JPEG": b"1", "train/a/y.JPEG": b"22"},
    ]
    digests = {read_index([write_tar(tmp_path / "a.tar", each)]).split_indexes[0].digest() for each in sources}
    assert len(digests) == 5


def test_classes_are_the_union_of_both_splits(tmp_path: Path) -> None:
    files = {"train/b/1.JPEG": b"x", "val/a/2.JPEG": b"x", "val/b/3.JPEG": b"x", "train/c/4.JPEG": b"x"}
    index = read_index([write_tar(tmp_path / "a.tar", files)])
    assert index.classes == ("a", "b", "c")
    assert [label for label, *_ in indexed_images(index)["val", None]] == [0, 1]


@pytest.mark.parametrize(
    ("names", "by_value"),
    [
        (map(str, range(12)), True),
        ((f"{at:02d}" for at in range(12)), False),  # with zeros in front, names are in this order anyhow
        (map(str, range(1, 13)), False),
        ((*map(str, range(12)), "13"), False),
    ],
)
def test_classes_0_to_n_are_numbered_by_value(tmp_path: Path, names: Iterable[str], by_value: bool) -> None:
    """As ImageNetV2 has them."""
    files = {f"train/{name}/1.JPEG": b"x" for name in names}
    index = read_index([write_tar(tmp_path / "a.tar", files)])
    classes = sorted({name.split("/")[1] for name in files}, key=int if by_value else str)
    assert index.classes == tuple(classes)
    assert index.notes == (("the classes 0 to 11 are numbered by their value",) if by_value else ())


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    nfc, nfd = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    files = {f"train/{nfc}/1.JPEG": b"1", f"train/{nfd}/2.JPEG": b"2", f"val/{nfd}/3.JPEG": b"3"}
    for source in (write_tar(tmp_path / "a.tar", files), write_folder(tmp_path / "f", files)):
        index = read_index([source])
        assert index.classes == (nfc,)
        reader = Reader(index.files)
        stored = [
            reader.read(*place, part.key(at))
            for part in index.split_indexes
            for at, place in enumerate(part.places.tolist())
        ]
        assert stored == [b"1", b"2", b"3"]
        assert index.notes == (f"{nfc} is written in two Unicode forms; they are one class",)
    alone = {f"train/{nfd}/1.JPEG": b"1", f"val/{nfd}/3.JPEG": b"3"}
    assert read_index([write_tar(tmp_path / "b.tar", alone)]).classes == (nfd,)


def test_resized_and_original_images_must_be_the_same(tmp_path: Path) -> None:
    files = {"x-sz/160/train/c/a.JPEG": b"1", "y/train/c/a.JPEG": b"2", "y/train/c/b.JPEG": b"2"}
    with pytest.raises(SourceError, match="same images"):
        read_index([write_tar(tmp_path / "a.tar", files)])


def state(source: Path, **columns: str) -> dict[str, str]:
    return read_index([source], **columns).split_indexes[0].state


def test_state_changes_with_times_and_columns_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {"train/a/1.png": b"x", "train/a/2.png": b"y"})
    before = state(folder)
    os.utime(folder / "train/a/2.png", ns=(0, 1))
    assert before.keys() == state(folder).keys() == {"folder"}
    assert before != state(folder)
    table = pyarrow.table({"image": [b"x"], "thumb": [b"y"], "label": [0]})
    parquet.write_table(table, tmp_path / "train.parquet")
    assert state(tmp_path / "train.parquet") == state(tmp_path / "train.parquet", image_column="image")
    assert state(tmp_path / "train.parquet") != state(tmp_path / "train.parquet", image_column="thumb")


def test_duplicate_images_are_refused(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", FILES)
    two = write_tar(tmp_path / "2.tar", {"other/train/n01/b.JPEG": b"another"})
    with pytest.raises(SourceError, match=r"1\.tar and .*2\.tar: train/n01/b\.JPEG is given twice"):
        read_index([one, two])
