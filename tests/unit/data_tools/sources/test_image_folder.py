"""Folders and tars with a folder for each class."""

from pathlib import Path

import pytest
from helpers.images import write_folder, write_tar
from helpers.indexes import FILES, indexed_images

from data_tools.sources.image_folder import locate
from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


def test_resized_images_form_a_split_index_for_each_cap(tmp_path: Path) -> None:
    files = {
        f"imagenet-sz/{cap}/{split}/c/{name}": f"{cap}{split}{name}".encode()
        for cap in (160, 320, 352)
        for split, name in (("train", "t.JPEG"), ("validation", "v.JPEG"))
    }
    index = read_index([write_tar(tmp_path / "sz.tar", files)])
    assert set(indexed_images(index)) == {(split, cap) for split in ("train", "val") for cap in (160, 320, 352)}
    assert indexed_images(index)["train", 320] == [(0, "c/t.JPEG", b"320traint.JPEG")]
    folder = write_folder(tmp_path, files) / "imagenet-sz"
    assert indexed_images(read_index([folder])) == indexed_images(index)
    assert set(indexed_images(read_index([folder / "320"]))) == {("train", 320), ("val", 320)}


def test_locate_finds_split_cap_class_and_file_name() -> None:
    assert locate("data/2012/train/c/x.JPEG") == ("train", None, "c", "x.JPEG")
    assert locate("imagenet-sz/160/train/c/x.JPEG") == ("train", 160, "c", "x.JPEG")
    assert locate("./train/./c/x.JPEG") == ("train", None, "c", "x.JPEG")
    assert locate("train/c/.DS_Store") is None
    assert locate("README") is None


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {name[2:]: data for name, data in FILES.items()})
    (folder / "train/n01/evil.JPEG").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match=r"evil\.JPEG: a symbolic link"):
        read_index([folder])
