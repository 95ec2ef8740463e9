"""Data sets as people have them: the same as a tar and as a folder, read as the sorted one."""

import io
from pathlib import Path

import pytest
from helpers.images import META_MAT, WNIDS, write_folder, write_tar
from helpers.indexes import indexed_images
from PIL import Image

from data_tools.sources.index import Index
from data_tools.sources.listing import TRUTH
from data_tools.sources.reader import Reader
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError

Files = dict[str, bytes]
TRAIN = {f"{wnid}/{wnid}_{at}.JPEG": f"{wnid}{at}".encode() for wnid in WNIDS[:3] for at in range(2)}
VAL = {f"{WNIDS[at]}/ILSVRC2012_val_{at + 1:08d}.JPEG": f"val{at}".encode() for at in range(3)}
SORTED = {f"train/{name}": data for name, data in TRAIN.items()} | {f"val/{name}": data for name, data in VAL.items()}

SORTED_TEST = {name.replace("val/", "test/"): data for name, data in SORTED.items()}


def flat(files: Files) -> Files:
    return {name.rpartition("/")[2]: data for name, data in files.items()}


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": data for name, data in files.items()}


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


def both(tmp_path: Path, files: Files) -> list[Index]:
    """The index of the tar and of the folder."""
    return [read_index([write_tar(tmp_path / "a.tar", files)]), read_index([write_folder(tmp_path / "folder", files)])]


def digests(index: Index) -> list[str]:
    return [part.digest() for part in index.split_indexes]


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    "files",
    [
        below("imagenet", SORTED),
        below("train", SORTED),  # the data set itself is called so
        tiny(),
        kaggle(),
        below("train", TRAIN) | below("valid", VAL),
        below("train", TRAIN) | below("test", VAL),
        below("Train", TRAIN) | below("Validation", VAL),
        SORTED | below("test", {f"{WNIDS[4]}/t.JPEG": b"t"}),
        SORTED | {"val/train/extra/1.JPEG": b"of val, too deep", "old/train/extra/2.JPEG": b"3"},
    ],
    ids=["sorted", "named train", "tiny", "kaggle", "valid", "test for val", "capitals", "test beside val", "deeper"],
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


def test_a_split_folder_and_a_sized_folder_may_be_given_themselves(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "train" / "x-sz" / "160", SORTED)
    (tmp_path / "link").symlink_to(root)
    whole = read_index([tmp_path / "train"])
    assert set(indexed_images(whole)) == {("train", 160), ("val", 160)}
    for sources in ([root], [root.parent], [tmp_path / "link"], [root / "val", root / "train"]):
        assert indexed_images(read_index(sources)) == indexed_images(whole)


def test_nothing_of_the_path_to_the_root_counts(tmp_path: Path) -> None:
    files = below("train", TRAIN) | {"notes/1.JPEG": b"x", "2.JPEG": b"y"}
    found = read_index([write_folder(tmp_path / "train", files)])
    assert found.classes == tuple(sorted(WNIDS[:3]))
    assert found.ignored == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (below("train", TRAIN) | below("val", {"1.JPEG": b"x"}), r"val/1\.JPEG: in no class folder.*--data\.splits"),
        (SORTED_TEST | {"val/1.JPEG": b"x"}, r"val/1\.JPEG: in no class folder"),
        (below("val", VAL) | below("train", {"1.JPEG": b"x"}), r"train/1\.JPEG: in no class folder.*--data\.splits"),
        (SORTED | below("valid", VAL), "val and valid both exist"),
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


def test_only_the_named_splits_are_read(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", below("train", {"cat/1.JPEG": b"x"}) | below("val", {"cats/1.JPEG": b"x"}))
    assert read_index([source]).classes == ("cat", "cats")
    assert read_index([source], splits=["train"]).classes == ("cat",)
    assert indexed_images(read_index([source], splits=["val"])) == {("val", None): [(0, "cats/1.JPEG", b"x")]}


JUNK = {
    "._.": b"\0\5\x16\7",
    "train/._x.JPEG": b"\0\5\x16\7",
    "train/CLS/Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(99),
    "train/CLS/.DS_Store": b"\0\0\0\1Bud1",
    "train/CLS/._n_1.JPEG": b"\0\5\x16\7",
    "train/CLS/desktop.ini": b"[.ShellClassInfo]\r\n",
    "train/CLS/labels.txt": b"BMW\n" * 20,
    "train/CLS/boxes.xml": b"<annotation>",
    "train/CLS/README": b"P6 and II",
    "train/CLS/empty": b"",
    "train/CLS/@eaDir/n_1.JPEG/SYNOPHOTO_THUMB_M.jpg": b"\xff\xd8\xff",
    "train/@eaDir/n_1.JPEG": b"\xff\xd8\xff",
    "train/.ipynb_checkpoints/n_1.JPEG": b"\xff\xd8\xff",
    "train/CLS/.ipynb_checkpoints/n_1-checkpoint.JPEG": b"\xff\xd8\xff",
    "__MACOSX/train/CLS/n_1.JPEG": b"\xff\xd8\xff",
}


def test_what_is_no_image_is_counted_and_not_taken(tmp_path: Path) -> None:
    junk = {name.replace("CLS", WNIDS[0]): data for name, data in JUNK.items()}
    wanted = read_index([write_tar(tmp_path / "sorted.tar", SORTED)])
    for index in both(tmp_path, junk | SORTED):
        assert indexed_images(index) == indexed_images(wanted)
        assert index.ignored == len(junk)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_content_of_a_picture_makes_an_image_of_any_name(tmp_path: Path, kind: str) -> None:
    files = {"train/a/12345": picture(kind), "train/a/x.bin": picture(kind), "train/a/y.JPEG": b"damaged"}
    for index in both(tmp_path, files):
        assert [key for _, key, _ in indexed_images(index)["train", None]] == ["a/12345", "a/x.bin", "a/y.JPEG"]
