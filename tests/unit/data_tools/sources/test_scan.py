"""Sources as people have them: tars and folders give the index of the sorted tar; what is left out is counted."""

import gzip
import os
from pathlib import Path

import pytest
from helpers.images import META_MAT, WNIDS, encoded, write_folder, write_tar
from helpers.indexes import FILES, WANTED, indexed_images, left_out
from PIL import Image

from data_tools.sources.index import Index
from data_tools.sources.listing import TRUTH
from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError

Files = dict[str, bytes]
TRAIN = {f"{wnid}/{wnid}_{at}.JPEG": f"{wnid}{at}".encode() for wnid in WNIDS[:3] for at in range(2)}
VAL = {f"{WNIDS[at]}/ILSVRC2012_val_{at + 1:08d}.JPEG": f"val{at}".encode() for at in range(3)}


def flat(files: Files) -> Files:
    return {name.rpartition("/")[2]: data for name, data in files.items()}


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": data for name, data in files.items()}


SORTED = below("train", TRAIN) | below("val", VAL)


def tiny() -> Files:
    """tiny-imagenet-200, in small, as it is unzipped."""
    train = {name.replace("/", "/images/"): data for name, data in TRAIN.items()}
    boxes = {f"train/{wnid}/{wnid}_boxes.txt": b"x_0.JPEG\t0\t0\t62\t62\n" for wnid in WNIDS[:3]}
    rows = "".join(f"{name.split('/')[1]}\t{name.split('/')[0]}\t0\t32\t44\t62\n" for name in VAL)
    val = below("val/images", flat(VAL)) | {"val/val_annotations.txt": rows.encode()}
    test = {"test/images/test_0.JPEG": b"t", "wnids.txt": b"n1\n"}
    return below("tiny-imagenet-200", below("train", train) | boxes | val | test)


LABELS = "ImageId,PredictionString\n" + "".join(
    f"{name.split('/')[1].removesuffix('.JPEG')},{name.split('/')[0]} 85 1 499 272 {name.split('/')[0]} 1 2 3 4\n"
    for name in VAL
)


def kaggle() -> Files:
    """Kaggle's imagenet-object-localization-challenge, in small, as it is unzipped."""
    images = below("train", TRAIN) | below("val", flat(VAL)) | {"test/ILSVRC2012_test_00000001.JPEG": b"t"}
    boxes = {f"train/{name.removesuffix('JPEG')}xml": b"<annotation>" for name in TRAIN}
    boxes |= {f"val/{name.removesuffix('JPEG')}xml": b"<annotation>" for name in flat(VAL)}
    lists = {"ILSVRC/ImageSets/CLS-LOC/train_cls.txt": b"n0/n0_1 1\n", "LOC_val_solution.csv": LABELS.encode()}
    return below("ILSVRC/Data/CLS-LOC", images) | below("ILSVRC/Annotations/CLS-LOC", boxes) | lists


def both(tmp_path: Path, files: Files, **more: float) -> list[Index]:
    """The index of the tar and of the folder."""
    sources = (write_tar(tmp_path / "a.tar", files), write_folder(tmp_path / "folder", files))
    return [read_index([source], **more) for source in sources]


def digests(index: Index) -> list[str]:
    return [part.digest() for part in index.split_indexes]


@pytest.mark.parametrize(
    "files",
    [
        below("imagenet", SORTED),
        below("train", SORTED),
        tiny(),
        kaggle(),
        below("training", TRAIN) | below("testing", VAL),
        SORTED | below("test", {f"{WNIDS[4]}/t.JPEG": b"t"}),
    ],
    ids=["sorted", "named train", "tiny", "kaggle", "test for val", "test beside val"],
)
def test_every_layout_gives_the_index_of_the_sorted_tar(tmp_path: Path, files: Files) -> None:
    wanted = read_index([write_tar(tmp_path / "sorted.tar", SORTED)])
    for index in both(tmp_path, files):
        assert indexed_images(index) == indexed_images(wanted)
        assert digests(index) == digests(wanted)
        reader = Reader(index.files)
        for part in index.split_indexes:
            read = [reader.read(*place.tolist(), part.key(at)) for at, place in enumerate(part.places)]
            assert read == [data for _, _, data in indexed_images(wanted)[part.split, None]]


def test_pictures_deep_in_a_class_are_read_from_tar_and_folder(tmp_path: Path) -> None:
    files = {"train/cat/1.jpg": b"c", "train/dogs/poodle/1.jpg": b"p", "train/dogs/beagle/1.jpg": b"b"}
    wanted = [("cat/1.jpg", b"c"), ("dogs/beagle/1.jpg", b"b"), ("dogs/poodle/1.jpg", b"p")]
    for index in both(tmp_path, files):
        (part,), reader = index.split_indexes, Reader(index.files)
        assert [(part.key(at), reader.read(*part.places[at].tolist(), part.key(at))) for at in range(3)] == wanted
        assert index.notes == ()


def test_labels_of_kaggle_images_may_be_another_source(tmp_path: Path) -> None:
    wanted = read_index([write_tar(tmp_path / "sorted.tar", SORTED)])
    root = write_folder(tmp_path / "k", kaggle())
    images = (root / "LOC_val_solution.csv").rename(tmp_path / "labels") and root / "ILSVRC/Data/CLS-LOC"
    unpacked = {"d/data/meta.mat": META_MAT, f"d/data/{TRUTH}": b"1\n2\n3\n", "d/readme.txt": b"x"}
    devkits = [write_tar(tmp_path / "devkit.tar", unpacked), write_folder(tmp_path / "unpacked", unpacked)]
    for labels in (tmp_path / "labels", *devkits):
        assert digests(read_index([images, labels])) == digests(read_index([labels, root])) == digests(wanted)
    with pytest.raises(SourceError, match=r"no labels; add ILSVRC2012_devkit_t12.tar.gz"):
        read_index([root])
    assert read_index([root], splits=["train"]).images() == {"train": len(TRAIN)}


def test_resized_images_and_folders_of_one_split_may_be_given_themselves(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "train" / "x-sz" / "160", SORTED)
    write_folder(root.parent / "320", SORTED)
    (tmp_path / "link").symlink_to(root)
    small = {(split, 160): images for (split, _), images in indexed_images(read_index([root])).items()}
    assert set(small) == {("train", 160), ("val", 160)}
    assert set(indexed_images(read_index([tmp_path / "train"]))) == {*small, ("train", 320), ("val", 320)}
    for sources in ([root], [tmp_path / "link"], [root / "val", root / "train"]):
        assert indexed_images(read_index(sources)) == small


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            below("train", TRAIN) | below("val", {"1.JPEG": b"x"}),
            r"(tar|r): val/1\.JPEG: in no class folder.*--data\.splits",
        ),
        (below("train", TRAIN) | below("test", VAL) | {"val/1.JPEG": b"x"}, r"val/1\.JPEG: in no class folder"),
        (SORTED | below("valid", VAL), r"(a\.tar|folder): val and valid both exist"),
        ({"train/images/1.jpg": b"x", "train/labels/1.txt": b"0"}, r"train: holds images in place of classes.*YOLO"),
        (
            {"train/n01.tar": b"x", "val/n01.tar": b"x"},
            r"n01\.tar: ends early, after nothing|no images at .*archives that .* left out: 2, e\.g\. .*n01\.tar",
        ),
        (
            tiny() | {"tiny-imagenet-200/val/val_annotations.txt": b"other.JPEG\tn1\t0\n"},
            r"no label for ILSVRC2012_val",
        ),
    ],
)
def test_a_split_that_cannot_be_told_is_refused(tmp_path: Path, files: Files, words: str) -> None:
    for source in (write_tar(tmp_path / "a.tar", files), write_folder(tmp_path / "folder", files)):
        with pytest.raises(SourceError, match=words):
            read_index([source])


# ---------------------------------------------------------------------------------------------- what is left out
JUNK = {
    "._.": b"\0\5\x16\7",
    "train/._x.JPEG": b"\0\5\x16\7",
    "train/CLS/Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(99),
    "train/CLS/.DS_Store": b"\0\0\0\1Bud1",
    "train/CLS/desktop.ini": b"[.ShellClassInfo]\r\n",
    "train/CLS/labels.txt": b"BMW\n" * 20,
    "train/CLS/README": b"P6 and II",
    "train/CLS/empty": b"",
    "train/CLS/@eaDir/n_1.JPEG/SYNOPHOTO_THUMB_M.jpg": b"\xff\xd8\xff",
    "train/.ipynb_checkpoints/n_1.JPEG": b"\xff\xd8\xff",
    "__MACOSX/train/CLS/n_1.JPEG": b"\xff\xd8\xff",
}


def test_what_is_no_image_is_counted_and_not_taken(tmp_path: Path) -> None:
    junk = {name.replace("CLS", WNIDS[0]): data for name, data in JUNK.items()}
    wanted = read_index([write_tar(tmp_path / "sorted.tar", SORTED)])
    for index in both(tmp_path, junk | SORTED):
        assert indexed_images(index) == indexed_images(wanted)
        assert left_out(index) == {"other files": len(junk) - 3, "images in hidden folders": 3}


def test_pictures_that_are_left_out_have_a_line_and_are_few(tmp_path: Path) -> None:
    files = SORTED | {
        "misc/1.JPEG": b"x",
        "train/cover.png": b"x",
        "test/2.JPEG": b"x",
        "README": b"x",
        "train/a.zip": b"x",
    }
    line = r"misc/1\.JPEG: images outside of .*: 2 of 11; .*--data\.max_left_out=1"
    with pytest.raises(SourceError, match=line):
        read_index([write_tar(tmp_path / "a.tar", files)])
    for index in both(tmp_path, files, max_left_out=0.2):
        counts = {"images of the test split": 1, "other files": 1, "archives that are not unpacked": 1}
        assert left_out(index) == counts | {"images in no folder of a split and class": 2}
        assert all(name in "".join(index.notes) for name in ("test/2.JPEG", "README", "train/a.zip", "misc/1.JPEG"))


def test_labels_without_a_picture_are_counted(tmp_path: Path) -> None:
    files = tiny()
    files["tiny-imagenet-200/val/val_annotations.txt"] += b"val_9.JPEG\tn01\t0\n"
    for index in both(tmp_path, files):
        assert left_out(index)["labels without an image"] == 1 and "e.g. val_9" in "".join(index.notes)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_content_of_a_picture_makes_an_image_of_any_name(tmp_path: Path, kind: str) -> None:
    picture = encoded(Image.new("RGB", (4, 4)), kind)
    files = {"train/a/12345": picture, "train/a/x.bin": picture, "train/a/y.JPEG": b"damaged"}
    for index in both(tmp_path, files):
        assert [key for _, key, _ in indexed_images(index)["train", None]] == ["a/12345", "a/x.bin", "a/y.JPEG"]


# ---------------------------------------------------------------------------------------------- kinds of source
def test_folder_one_tar_and_several_tars_give_the_same_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {name[2:]: data for name, data in FILES.items()})
    one = write_tar(tmp_path / "1.tar", dict(list(FILES.items())[:2]))
    two = write_tar(tmp_path / "2.tar", dict(list(FILES.items())[2:]))
    whole = write_tar(tmp_path / "w.tar", FILES)
    indices = [read_index(paths) for paths in ([folder], [one, two], [two, one], [whole])]
    assert all(indexed_images(index) == WANTED for index in indices)
    assert len({tuple(digests(index)) for index in indices}) == 1
    assert indices[3].sources[0].bytes == whole.stat().st_size
    assert indices[0].sources[0].bytes == sum(map(len, FILES.values()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 2000, mtime=0), "compressed with gzip.*; gunzip it once"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd.*; unzstd it once"),
        (b"PK\x03\x04" + bytes(600), "a zip archive.*; unzip it once"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF image, not a data set"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "a JPEG image"),
        (b"short", "neither a tar"),
    ],
)
def test_files_that_are_no_archive_are_refused_as_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_index([tmp_path / "a.tar"])


def test_missing_special_and_repeated_sources_are_refused(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", FILES)
    (tmp_path / "b.tar").symlink_to(source)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such source"):
        read_index([tmp_path / "none.tar"])
    with pytest.raises(SourceError, match="a pipe, which cannot be read in place"):
        read_index([tmp_path / "pipe"])
    with pytest.raises(SourceError, match=r"b\.tar: given twice"):
        read_index([source, tmp_path / "b.tar"])
