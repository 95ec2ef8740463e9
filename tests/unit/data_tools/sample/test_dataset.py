"""The sample dataset: the same bytes from the same seed, balanced, disjoint, as odd as ImageNet."""

import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from data_tools.sample import dataset

SMALL = {"classes": 4, "train": 44, "val": 12}  # 44: every residue modulo 41, so every oddity


def read(tar: Path) -> dict[str, bytes]:
    """name -> bytes, in the order of the archive."""
    with tarfile.open(tar) as members:
        return {m.name: members.extractfile(m).read() for m in members}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("sample") / "sample.tar"
    dataset.write(out, dataset.specs(**SMALL))
    return read(out)


@pytest.fixture(scope="module")
def images(files: dict[str, bytes]) -> dict[str, Image.Image]:
    opened = {name: Image.open(io.BytesIO(data)) for name, data in files.items()}
    for image in opened.values():
        image.load()
    return opened


def test_other_seed_gives_other_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        dataset.write(tmp_path / f"{seed}.tar", dataset.specs(classes=2, train=4, val=2, seed=seed))
    first, other = read(tmp_path / "0.tar"), read(tmp_path / "1.tar")
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_larger_set_holds_the_smaller_one() -> None:
    """An image depends on its own key alone, not on how many others there are."""
    small, large = dataset.specs(classes=2, train=4, val=2), dataset.specs(classes=2, train=8, val=2)
    assert set(small) <= set(large)


def test_files_are_laid_out_as_in_the_sorted_tar(files: dict[str, bytes]) -> None:
    assert list(files) == sorted(files)
    classes = {"train": Counter[str](), "val": Counter[str]()}
    for name in files:
        top, split, kind, file = name.split("/")
        assert top == "sample"
        assert file.endswith(".JPEG")
        classes[split][kind] += 1
    assert classes["train"].keys() == classes["val"].keys()
    assert set(classes["train"].values()) == {11}  # balanced: a constant guess is right once in four
    assert set(classes["val"].values()) == {3}


def test_all_files_and_images_differ(files: dict[str, bytes], images: dict[str, Image.Image]) -> None:
    """Validation shares nothing with training: neither bytes nor, under another encoding, pixels."""
    assert len({hashlib.sha256(data).digest() for data in files.values()}) == len(files)
    tiny = [image.convert("L").resize((8, 8)).tobytes() for image in images.values()]
    assert len(set(tiny)) == len(files)


def test_every_kind_of_odd_image_is_there(files: dict[str, bytes], images: dict[str, Image.Image]) -> None:
    kinds: Counter[str] = Counter()
    for name, image in images.items():
        kinds[f"{image.format} {image.mode}"] += 1
        kinds["progressive"] += "progressive" in image.info
        kinds["turned"] += image.getexif().get(0x0112, 1) != 1
        assert (files[name][:8] == b"\x89PNG\r\n\x1a\n") == (image.format == "PNG")
    for oddity in ("JPEG L", "JPEG CMYK", "PNG RGB", "PNG P", "progressive", "turned"):
        assert kinds[oddity] >= 1, oddity
    assert kinds["JPEG RGB"] > 0.8 * len(images)


@pytest.mark.parametrize("classes", [10, 41, 1000])
def test_every_class_has_every_kind_of_odd_image(classes: int) -> None:
    specs = dataset.specs(classes=classes, train=160 * classes, val=classes)
    met = {(s.kind, s.oddity) for s in specs if s.split == "train"}
    assert len(met) == classes * (len(dataset.ODDITIES) + 1)


def test_sizes_and_qualities_are_those_of_photographs(images: dict[str, Image.Image]) -> None:
    sides = [image.size for image in images.values()]
    assert 400 <= min(map(min, sides)) <= max(map(max, sides)) <= 640
    assert {width > height for width, height in sides} == {True, False}
    colour = [i for i in images.values() if i.format == "JPEG" and i.mode == "RGB"]
    tables = {tuple(i.quantization[0]) for i in colour}
    assert len(tables) > 10  # many qualities
    assert {i.layer[0][1:3] for i in colour} == {(1, 1), (2, 1), (2, 2)}  # 4:4:4, 4:2:2 and 4:2:0


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sample.tar"
    out.write_bytes(b"the old one")

    def broken(spec: dataset.SampleImage) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "make", broken)
    with pytest.raises(OSError, match="disk full"):
        dataset.write(out, dataset.specs(classes=2, train=2, val=2))
    assert [p.name for p in tmp_path.iterdir()] == ["sample.tar"]
    assert out.read_bytes() == b"the old one"
