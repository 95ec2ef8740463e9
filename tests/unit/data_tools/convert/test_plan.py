"""Which splits a conversion takes, and when it is refused for what is missing."""

from pathlib import Path

import pytest
from helpers.images import spec_for, write_tar
from pydantic import ValidationError

from data_tools.convert.plan import ConversionError, class_difference, plan
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError

TRAIN = {f"train/{name}/1.JPEG": b"x" for name in ("cat", "dog")}
VAL = {f"val/{name}/1.JPEG": b"x" for name in ("cat", "dog")}


def planned(
    tmp_path: Path, files: dict[str, bytes], splits: tuple[str, ...] | None = None, **options: object
) -> list[str]:
    """The betons that a conversion of these files would write."""
    spec = spec_for(write_tar(tmp_path / "a.tar", files), tmp_path / "out", caps=("160",), splits=splits, **options)
    index = read_index(spec.data.source, splits=splits or ("train", "val"))
    return [beton.path.name for each in plan(index, spec) for beton in each.betons]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (TRAIN, "no val images in the source; --data.splits=train converts the rest"),
        (VAL, "no train images in the source; --data.splits=val converts the rest"),
        (
            TRAIN | {"val/cats/1.JPEG": b"x", "val/dogs/1.JPEG": b"x"},
            "2 only in train, e.g. cat; 2 only in val, e.g. cats",
        ),
        (TRAIN | {"val/cat/1.JPEG": b"x"}, r"differ: 1 only in train, e.g. dog; --data\.splits=train"),
        (
            {f"x-sz/{px}/{name}": b"x" for px in (160, 320) for name in (*TRAIN, *VAL) if px == 160 or name in TRAIN},
            "no val images at 320 px in the source",
        ),
    ],
)
def test_a_missing_split_or_other_classes_are_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        planned(tmp_path, files)


def test_wnids_may_differ_since_none_is_spelled_in_two_ways(tmp_path: Path) -> None:
    wnids = {"train/n01440764/1.JPEG": b"x", "val/n01443537/1.JPEG": b"x"}
    assert planned(tmp_path, wnids) == ["train_160.beton", "val_160.beton"]
    index = read_index([tmp_path / "a.tar"])
    only = "1 only in train, e.g. n01440764; 1 only in val, e.g. n01443537"
    assert class_difference(index) == f"the classes of train and val differ: {only}"


def test_one_class_is_refused_unless_it_is_intended(tmp_path: Path) -> None:
    """Mostly it is a folder of something else, as `HR` of data for super-resolution."""
    files = {f"{split}/HR/1.png": b"x" for split in ("training", "testing")}
    with pytest.raises(ConversionError, match=r"one class, HR; .*--data\.expect=any"):
        planned(tmp_path, files)
    assert planned(tmp_path, files, expect="any") == ["train_160.beton", "val_160.beton"]


def test_named_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    assert planned(tmp_path, TRAIN | VAL) == ["train_160.beton", "val_160.beton"]
    other = TRAIN | {"val/cats/1.JPEG": b"x", "val/dogs/1.JPEG": b"x"}
    assert planned(tmp_path, other, ("train",)) == ["train_160.beton"]
    assert planned(tmp_path, other, ("val",)) == ["val_160.beton"]
    assert planned(tmp_path, other, ("train", "val")) == ["train_160.beton", "val_160.beton"]
    with pytest.raises(SourceError, match=r"no images .*that --data\.splits=val takes"):
        planned(tmp_path, TRAIN, ("val",))
    with pytest.raises(ConversionError, match="no val images"):
        planned(tmp_path, TRAIN, ("train", "val"))


@pytest.mark.parametrize("splits", [(), ("train", "train"), ("test",)])
def test_impossible_splits_are_refused(tmp_path: Path, splits: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="splits"):
        spec_for(tmp_path, tmp_path, splits=splits)


def test_imagenet_may_be_converted_one_split_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.beton.classes.IMAGENET_CLASSES", 1)
    monkeypatch.setattr("data_tools.beton.classes.IMAGENET_IMAGES", {"train": 2, "val": 1})
    files = {f"train/n01440764/{at}.JPEG": b"x" for at in range(2)}
    assert planned(tmp_path, files, ("train",)) == ["train_160.beton"]
    with pytest.raises(ConversionError, match="train: 1 images where ImageNet has 2"):
        planned(tmp_path, dict(list(files.items())[:1]), ("train",))
