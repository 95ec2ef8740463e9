"""Parquet shards as the Hugging Face hub has them."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from helpers.images import write_tar
from helpers.indexes import indexed_images
from pyarrow import parquet

from data_tools.sources.parquet import Rows
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


def shard(
    path: Path, images: list[tuple[str | None, int, bytes]], names: list[str] | None = None, group: int = 2
) -> Path:
    image = pyarrow.array(
        [{"bytes": data, "path": name} for name, _, data in images],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    table = pyarrow.table({"image": image, "label": pyarrow.array([label for _, label, _ in images], pyarrow.int64())})
    if names:
        noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_parquet_gives_the_same_index_as_the_sorted_tar(tmp_path: Path) -> None:
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
    found = {}
    for split_index in index.split_indexes:
        assert split_index.order is not None
        found[split_index.split, None] = [
            (label, split_index.key(at), Rows(index.files[file].path).image(offset))
            for at, (label, (file, offset, _)) in enumerate(zip(split_index.labels, split_index.places, strict=True))
        ]
    assert found == indexed_images(expected)
    in_reading_order = index.split_indexes[0].places[index.split_indexes[0].order]
    assert np.all(np.diff(in_reading_order["file"].astype(np.int64)) >= 0)
    assert index.ignored == 1


def test_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    images = [(f"{at}.JPEG", at % 3, f"image {at}".encode()) for at in range(300)]
    path = shard(tmp_path / "train.parquet", images, group=120)
    opened = Rows(str(path))
    for at in [0, 1, 119, 120, 299, 5, 130, 129]:
        assert opened.image((at // 120) << 32 | at % 120) == images[at][2]


def test_classes_without_wnids_are_named_by_the_features_or_numbered(tmp_path: Path) -> None:
    named = shard(tmp_path / "train-a.parquet", [("1.png", 0, b"x"), (None, 1, b"y")], ["zebra", "ape/monkey"])
    assert read_index([named]).classes == ("ape_monkey", "zebra")
    numbered = shard(tmp_path / "train-b.parquet", [("1.png", 2, b"x"), ("2.png", 10, b"y")])
    assert read_index([numbered]).classes == ("02", "10")


def test_unusable_parquet_files_are_refused(tmp_path: Path) -> None:
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
