"""Parquet shards as the Hugging Face hub has them."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from helpers.images import write_folder, write_tar
from helpers.indexes import indexed_images, left_out
from pyarrow import parquet

from data_tools.sources.index import Index
from data_tools.sources.parquet import Table
from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


def table(path: Path, columns: dict[str, object], label_names: list[str] | None = None, group: int = 2) -> Path:
    """A shard of these columns; the names are those of the last one's labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pyarrow.table(columns)
    if label_names:
        noted = {"info": {"features": {list(columns)[-1]: {"names": label_names, "_type": "ClassLabel"}}}}
        rows = rows.replace_schema_metadata({"huggingface": json.dumps(noted)})
    parquet.write_table(rows, path, row_group_size=group)
    return path


def shard(path: Path, images: list[tuple[str, int, bytes]], names: list[str] | None = None, group: int = 2) -> Path:
    """A shard as the hub has it, of (path, label, bytes)."""
    image = [{"bytes": data, "path": name} for name, _, data in images]
    return table(path, {"image": image, "label": [label for _, label, _ in images]}, names, group)


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
            (label, split_index.key(at), Table(Path(index.files[file].path)).image("image", offset))
            for at, (label, (file, offset, _)) in enumerate(zip(split_index.labels, split_index.places, strict=True))
        ]
    assert found == indexed_images(expected)
    in_reading_order = index.split_indexes[0].places[index.split_indexes[0].order]
    assert np.all(np.diff(in_reading_order["file"].astype(np.int64)) >= 0)
    assert "other files" not in left_out(index)


def test_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    images = [(f"{at}.JPEG", at % 3, f"image {at}".encode()) for at in range(300)]
    path = shard(tmp_path / "train.parquet", images, group=120)
    opened = Table(path)
    for at in [0, 1, 119, 120, 299, 5, 130, 129]:
        assert opened.image("image", (at // 120) << 32 | at % 120) == images[at][2]


def stored_images(index: Index) -> dict[str, list[tuple[int, str, bytes]]]:
    """(label, key, bytes) of every image by split."""
    reader = Reader(index.files)
    return {
        part.split: [
            (label, part.key(at), reader.read(*place, part.key(at)))
            for at, (label, place) in enumerate(zip(part.labels.tolist(), part.places.tolist(), strict=True))
        ]
        for part in index.split_indexes
    }


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["zebra", "ape/monkey", "tench"], ("zebra", "ape_monkey", "tench")),
        (["crane", "tench", "crane"], ("crane (0)", "tench", "crane (2)")),
        (["ape/monkey", "ape_monkey", ""], ("ape_monkey (0)", "ape_monkey (1)", "2")),
        (["crane", "crane", "crane (0)"], ("crane (0) (0)", "crane (1)", "crane (0) (2)")),
        (["1", "", "x", "2"], ("1 (0)", "1 (1)", "x")),
        (["one"], ("one", "1", "2")),
        (None, ("0", "1", "2")),
    ],
)
def test_every_label_is_a_class_in_the_order_of_labels(
    tmp_path: Path, names: list[str] | None, classes: tuple[str, ...]
) -> None:
    images = [("same.png", label, bytes([label])) for label in (2, 0, 1)]
    index = read_index([shard(tmp_path / "train.parquet", images, names)])
    assert index.classes == classes
    assert [data for _, _, data in stored_images(index)["train"]] == [b"\0", b"\1", b"\2"]


def test_text_labels_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", {"image": [b"0", b"1", b"2"], "label": ["ape_b", "ape/b", "an ant"]})
    assert read_index([path]).classes == ("an ant", "ape_b (1)", "ape_b (2)")


def test_classes_are_the_same_in_one_folder_and_in_several_sources(tmp_path: Path) -> None:
    train = shard(tmp_path / "train-x.parquet", [(f"{label}.png", label, b"t") for label in range(11)])
    val = shard(tmp_path / "validation-x.parquet", [(f"{label}.png", label, b"v") for label in range(10)])
    whole = read_index([tmp_path])
    assert whole.classes == tuple(f"{label:02d}" for label in range(11))
    for paths in ([train, val], [val, train]):
        index = read_index(paths)
        assert index.classes == whole.classes
        assert [part.digest() for part in index.split_indexes] == [part.digest() for part in whole.split_indexes]


B = (b"a", b"b", b"c")


def test_two_unicode_forms_of_a_label_are_one_class(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", {"image": B, "label": ["caf\u00e9", "cafe\u0301", "x"]})
    assert read_index([path]).classes == ("caf\u00e9", "x")
    path = table(tmp_path / "train.parquet", {"image": B, "label": ["cafe\u0301", "cafe\u0301", "x"]})
    assert read_index([path]).classes == ("cafe\u0301", "x")


def test_labels_may_be_as_large_as_they_get(tmp_path: Path) -> None:
    largest = pyarrow.array([2**64 - 1, 2**63, 5], pyarrow.uint64())
    index = read_index([table(tmp_path / "train.parquet", {"image": B, "label": largest})])
    assert index.classes == tuple(f"{label:020d}" for label in (5, 2**63, 2**64 - 1))
    assert [data for _, _, data in stored_images(index)["train"]] == [b"c", b"b", b"a"]


@pytest.mark.slow
def test_pictures_of_a_row_group_may_take_over_2_gb(tmp_path: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    batches = [
        pyarrow.record_batch({"image": pyarrow.array([{"bytes": bytes([at]) * (70 << 20)}], kind), "label": [at]})
        for at in range(33)
    ]
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_batches(batches), path, use_dictionary=False)
    opened = Table(path)
    assert [opened.image("image", at)[-1] for at in range(33)] == list(range(33))


@pytest.mark.parametrize(
    "columns",
    [
        {"image": B, "label": [0, 1, 2]},
        {"image": B, "mask": B, "label": [0.0, 1.0, 2.0]},
        {"jpg": pyarrow.array(B, pyarrow.large_binary()), "cls": ["0", "1", "2"]},
        {"IMG": [{"bytes": b} for b in B], "label": pyarrow.array(["0", "1", "2"]).dictionary_encode()},
        {"image": pyarrow.array(B).dictionary_encode(), "target": pyarrow.array([0, 1, 2], pyarrow.uint8())},
        {"scan": [{"bytes": b, "path": ""} for b in B], "thumb": B, "label": [0, 1, 2]},
        {"image": [{"bytes": b, "path": 7} for b in B], "label": [0, 1, 2]},
    ],
    ids=lambda columns: ",".join(columns),
)
def test_images_and_labels_are_found_in_every_shape(tmp_path: Path, columns: dict[str, object]) -> None:
    index = read_index([table(tmp_path / "train.parquet", columns)])
    assert index.classes == ("0", "1", "2")
    assert [(label, data) for label, _, data in stored_images(index)["train"]] == list(enumerate(B))


def test_label_with_class_names_is_the_only_one_that_can_be_meant(tmp_path: Path) -> None:
    columns = {"image": B, "id": [7, 8, 9], "file": ["x", "y", "z"], "labels": [0, 1, 0]}
    assert read_index([table(tmp_path / "train.parquet", columns, ["cat", "dog"])]).classes == ("cat", "dog")


def test_unusual_columns_are_refused_with_the_options_that_name_them(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", {"thumb": B, "scan": B, "kind": [0, 1, 0], "lot": [1, 1, 1]})
    listed = r"its columns are thumb \(binary\), scan \(binary\), kind \(int64\), lot \(int64\)"
    with pytest.raises(SourceError, match=f"which column holds the images.*{listed}.*--data.image_column"):
        read_index([path])
    with pytest.raises(SourceError, match=r"which column holds the labels.*--data\.label_column"):
        read_index([path], image_column="scan")
    with pytest.raises(SourceError, match="no column 'kind' that holds images"):
        read_index([path], image_column="kind")
    assert read_index([path], image_column="scan", label_column="kind").classes == ("0", "1")
    nested = table(tmp_path / "train-2.parquet", {"image": [{"bytes": {"bytes": b}} for b in B], "label": [0, 1, 0]})
    with pytest.raises(SourceError, match="which column holds the images"):
        read_index([nested])
    with pytest.raises(SourceError, match=r"--data\.image_column: scan, but no source is parquet"):
        read_index([write_tar(tmp_path / "a.tar", {"train/a/1.png": b"x"})], image_column="scan")


@pytest.mark.parametrize("labels", [[3, None, -1], [3.0, float("nan"), -1.0], ["3", "", None]], ids=str)
def test_rows_without_a_label_are_counted_and_left_out(tmp_path: Path, labels: list[object]) -> None:
    path = table(tmp_path / "train.parquet", {"image": B, "label": labels})
    index = read_index([path])
    assert [(label, data) for label, _, data in stored_images(index)["train"]] == [(0, b"a")]
    assert index.classes == ("3",)
    assert index.notes == (f"rows without a label left out: 2, e.g. {path}",)


def test_source_whose_rows_all_lack_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images .*rows without a label left out: 2"):
        read_index([shard(tmp_path / "train.parquet", [("1.png", -1, b"x"), ("2.png", -1, b"x")])])


def test_equal_file_names_within_a_class_are_told_apart(tmp_path: Path) -> None:
    names = [("a/1.png", 0), ("b/1.png", 0), ("1 (2).png", 0), ("1.png", 1), ("x", 1), ("y/x", 1)]
    path = shard(tmp_path / "train.parquet", [(name, label, name.encode()) for name, label in names])
    found = {key: data for _, key, data in stored_images(read_index([path]))["train"]}
    assert found == {
        "0/1.png": b"a/1.png",
        "0/1 (3).png": b"b/1.png",
        "0/1 (2).png": b"1 (2).png",
        "1/1.png": b"1.png",
        "1/x": b"x",
        "1/x (2)": b"y/x",
    }


def test_shard_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet", [("1.png", 0, b"x")])
    with pytest.raises(SourceError, match="the same shard is given twice"):
        read_index([path, tmp_path])
    with pytest.raises(SourceError, match="the same shard is given twice"):
        read_index([path, shard(tmp_path / "train-copy.parquet", [("1.png", 0, b"x")])])
    (tmp_path / "train-copy.parquet").unlink()
    path = table(path, {"image": [b"x"], "label": [0]})
    with pytest.raises(SourceError, match="the same shard is given twice"):
        read_index([path, tmp_path])
    alike = table(tmp_path / "train-2.parquet", {"image": [b"x"], "label": [0]})
    assert read_index([path, alike]).images() == {"train": 2}
    wnid = [("n00000001_1.JPEG", 0, b"x")]
    one, two = shard(tmp_path / "train-1.parquet", wnid), shard(tmp_path / "train-2.parquet", [*wnid, *wnid])
    with pytest.raises(SourceError, match=r"n00000001_1\.JPEG is given twice"):
        read_index([one, two])


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("plain_text/partial-train/0000.parquet", "plain_text/partial-validation/0000.parquet"),
        ("train/0.parquet", "valid/0.parquet"),
        ("flowers-train.parquet", "flowers-val.parquet"),
        ("train.parquet/part-00000.parquet", "val.parquet/part-00000.parquet"),
    ],
)
def test_shards_are_found_where_hubs_have_them(tmp_path: Path, train: str, val: str) -> None:
    for name in (train, val, Path(train.replace("train", "test")), ".cache/train/0.parquet", "._train.parquet"):
        table(tmp_path / name, {"image": [str(name).encode()], "label": [0]})
    table(tmp_path / Path(train).parent / "metadata.parquet", {"file_name": ["1.png"], "label": [0]})
    index = read_index([tmp_path])
    found = {split: [data.decode() for *_, data in images] for split, images in stored_images(index).items()}
    assert found == {"train": [train], "val": [val]}
    assert sorted(source.name for source in index.sources) == [train, val]
    assert left_out(index) == {"other files": 1, "shards of a test split": 1}


def test_set_of_shards_is_complete(tmp_path: Path) -> None:
    for name in ("train-00000-of-00003", "train-00002-of-00003", "validation-00000-of-00002-0a1b"):
        table(tmp_path / f"data/{name}.parquet", {"image": [name.encode()], "label": [0]})
    (tmp_path / "data/train-00001-of-00003.parquet.incomplete").touch()
    with pytest.raises(SourceError, match=r"^2 of 3 shards train-\*-of-00003; "):
        read_index([tmp_path], splits=["train"])
    train = sorted((tmp_path / "data").glob("train*.parquet"))
    assert read_index(train).images() == {"train": 2}  # as they are wanted
    table(tmp_path / "more/train-00001-of-00003.parquet", {"image": [b"1"], "label": [0]})
    sources = [tmp_path / "data", tmp_path / "more"]
    assert read_index(sources, splits=["train"]).images() == {"train": 3}
    with pytest.raises(SourceError, match=r"^1 of 2 shards validation-"):
        read_index(sources)


@pytest.mark.parametrize("name", ["more/data/2024/train-1.parquet", "more/train/1.PARQUET", "more/train-1.pq"])
def test_shards_are_found_at_any_depth_and_in_any_spelling(tmp_path: Path, name: str) -> None:
    table(tmp_path / "more/train/0.parquet", {"image": [b"0"], "label": [0]})
    table(tmp_path / name, {"image": [b"1"], "label": [0]})
    assert read_index([tmp_path]).images() == {"train": 2}


def test_what_lies_beside_shards_is_counted(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", {"img": [b"0"], "id": [0]})
    write_folder(tmp_path, {"train/a/1.png": b"x", "README.md": b"x", ".git/x.png": b"x"})
    index = read_index([tmp_path])
    assert left_out(index) == {"other files": 1, "images beside parquet": 1}
    assert "the images are in column img, the labels in id" in index.notes


def test_folder_of_several_data_sets_is_refused(tmp_path: Path) -> None:
    tmp_path = tmp_path / "my data"
    for name in ("large/train/0000.parquet", "small/train/0000.parquet"):
        table(tmp_path / name, {"image": [name.encode()], "label": [0]})
    with pytest.raises(SourceError, match=r"several data sets: large, small; .*--data\.source='/.*/my data/small'$"):
        read_index([tmp_path])
    assert read_index([tmp_path / "small"]).images() == {"train": 1}


def test_tables_beside_a_folder_of_images_are_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a/1.png": b"x", "train/b/2.png": b"y"})
    table(tmp_path / "metadata.parquet", {"file_name": ["1.png"], "label": [0]})
    assert read_index([tmp_path]).classes == ("a", "b")
    path = table(tmp_path / "none/train.parquet", {"image": ["1.png"], "label": [0]})
    with pytest.raises(SourceError, match=r"other files left out: 1, e\.g\. .*none/train\.parquet"):
        read_index([path.parent])
    with pytest.raises(SourceError, match=r"its columns are image \(string\), label \(int64\)"):
        read_index([path])


def test_unusable_parquet_files_are_refused(tmp_path: Path) -> None:
    some = shard(tmp_path / "some.parquet", [("1.png", 0, b"x")])
    for source in (some, table(tmp_path / "x/train/more/1.parquet", {"image": [b"1"], "label": [0]})):
        with pytest.raises(SourceError, match="its split is unknown"):
            read_index([source])
    clash = [("n00000001_1.JPEG", 0, b"x"), ("n00000002_1.JPEG", 0, b"x")]
    with pytest.raises(SourceError, match="label 0 is both n00000001 and n00000002"):
        read_index([shard(tmp_path / "train.parquet", clash)])
    with pytest.raises(SourceError, match="n00000001 is both label 0 and label 1"):
        read_index([shard(tmp_path / "train.parquet", [("n00000001_1.JPEG", 0, b"x"), ("n00000001_2.JPEG", 1, b"x")])])
    mixed = {"1": {"image": B, "label": [0, 1, 2]}, "2": {"image": B, "label": ["x", "y", "z"]}}
    with pytest.raises(SourceError, match="labels are both numbers and text"):
        read_index([table(tmp_path / f"train-{name}.parquet", columns) for name, columns in mixed.items()])
    named = [shard(tmp_path / f"train-{name}.parquet", [("1.png", 0, b"x")], [name]) for name in "ab"]
    with pytest.raises(SourceError, match="name their labels differently"):
        read_index(named)
    with pytest.raises(SourceError, match=r"label 0\.5 in row 1 of its group is not a whole number"):
        read_index([table(tmp_path / "train.parquet", {"image": B, "label": [0, 0.5, 1]})])
    for endless in ("inf", "-inf"):
        with pytest.raises(SourceError, match=f"label {endless} in row 1 of its group is not a whole number"):
            read_index([table(tmp_path / "train.parquet", {"image": B, "label": [0, float(endless), 1]})])
    twice = pyarrow.Table.from_arrays(
        [pyarrow.array(B), pyarrow.array(B), pyarrow.array([0, 1, 2])], ["image"] * 2 + ["label"]
    )
    parquet.write_table(twice, tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet: has image as the name of two columns"):
        read_index([tmp_path / "train.parquet"])
    with pytest.raises(SourceError, match="class cat is not a class of the parquet: dog"):
        tar = write_tar(tmp_path / "a.tar", {"val/cat/1.png": b"x"})
        read_index([shard(tmp_path / "train.parquet", [("1.png", 0, b"x")], ["dog"]), tar])
    whole = shard(tmp_path / "train.parquet", [("1.png", 0, b"x" * 999)]).read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:-50])
    with pytest.raises(SourceError, match="not a complete parquet file"):
        read_index([tmp_path / "train.parquet"])
    (tmp_path / "train.parquet").write_bytes(whole[:30] + bytes(30) + whole[60:])
    with pytest.raises(SourceError, match="not a complete parquet file"):
        stored_images(read_index([tmp_path / "train.parquet"]))
