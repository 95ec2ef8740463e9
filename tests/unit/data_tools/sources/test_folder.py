"""Links and special files in a folder."""

import errno
import os
from pathlib import Path

import pyarrow
import pytest
from helpers.images import write_folder
from helpers.indexes import FILES, WANTED, indexed_images, left_out
from pyarrow import parquet

from data_tools.sources.scan import read_index
from data_tools.sources.tar import SourceError


def linked(tmp_path: Path) -> Path:
    """FILES with every folder of a split or class, and the root itself, as a link to a store."""
    store = write_folder(tmp_path / "store", {name[2:]: data for name, data in FILES.items()})
    (tmp_path / "root" / "train").mkdir(parents=True)
    (tmp_path / "root" / "validation").symlink_to(store / "validation")
    for name in ("n01", "n02"):
        (tmp_path / "root/train" / name).symlink_to(f"../../store/train/{name}")
    (tmp_path / "link").symlink_to("root")
    return tmp_path / "link"


def test_links_to_the_folders_of_splits_and_classes_are_followed(tmp_path: Path) -> None:
    root = linked(tmp_path)
    assert indexed_images(read_index([root])) == WANTED
    assert indexed_images(read_index([root / "train", root / "validation"])) == WANTED
    (root / "train/n03").symlink_to("nowhere")
    with pytest.raises(SourceError, match="n03: a broken link"):
        read_index([root / "train"])


def test_links_that_concern_no_image_stop_nothing(tmp_path: Path) -> None:
    root = linked(tmp_path).resolve()
    store = tmp_path / "store/train/n01"
    links = {root / "latest": root, root / "nowhere": "missing", root / "old": store, root / "loop": "loop"}
    links |= {
        store / "notes.txt": "/etc/passwd",
        store / "up": "..",
        store / "in": ".",
        store / "gone": "missing",
        root / "README": store,
    }
    for link, target in links.items():
        link.symlink_to(target)
    os.mkfifo(root / "fifo")
    index = read_index([root])
    assert indexed_images(index) == WANTED
    assert left_out(index) == {"other files": len(links) + 1}


def test_links_to_images_are_followed_on_demand(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", {name[2:]: data for name, data in FILES.items() if "a.JPEG" not in name})
    write_folder(tmp_path, {"blob": FILES["x/train/n01/a.JPEG"], "more/z.JPEG": b"z"})
    (root / "train/n01/a.JPEG").symlink_to("../../../blob")
    with pytest.raises(SourceError, match=r"n01/a\.JPEG: a symbolic link; --data\.follow_links=true"):
        read_index([root])
    assert indexed_images(read_index([root], follow_links=True)) == WANTED
    (root / "train/n02/deeper").symlink_to("../../../more")
    index = read_index([root], follow_links=True)
    assert (1, "n02/deeper/z.JPEG", b"z") in indexed_images(index)["train", None]
    (root / "train/n01/a.JPEG").unlink()
    with pytest.raises(SourceError, match=r"deeper: a link to a folder; --data\.follow_links=true"):
        read_index([root])


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("train/n03", "..", r"train/n03: a link to a folder that contains it"),
        ("val", ".", r"/val: a link to a folder that contains it"),
        ("train/n03", "nowhere", r"train/n03: a broken link"),
        ("val", "nowhere", r"/val: a broken link"),
        ("train/n01/c.JPEG", "c.JPEG", r"c\.JPEG: a broken link"),
        ("train/n04/only.JPEG", "nowhere", r"only\.JPEG: a broken link"),
        ("train/n01/deep/c.JPEG", "nowhere", r"c\.JPEG: a broken link"),
    ],
)
def test_links_that_lead_in_a_circle_or_to_nothing_are_refused(
    tmp_path: Path, link: str, target: str, words: str
) -> None:
    root = write_folder(tmp_path / "root", {name[2:]: data for name, data in FILES.items() if "train" in name})
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target)
    for follow in (False, True):
        with pytest.raises(SourceError, match=words):
            read_index([root], follow_links=follow)


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_folder_that_cannot_be_read_is_an_error_unless_it_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As lost+found is on a disk of its own."""
    if kind == "images":
        write_folder(tmp_path, {name[2:]: data for name, data in FILES.items()})
    else:
        parquet.write_table(pyarrow.table({"image": [b"1"], "label": [0]}), tmp_path / "train.parquet")
    for name in ("lost+found", "data"):
        (tmp_path / name).mkdir()
    scan, closed = os.scandir, {"lost+found"}

    def scandir(path: str) -> object:
        if Path(path).name in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert left_out(read_index([tmp_path])) == ({"other files": 1, "empty folders": 1} if kind == "images" else {})
    closed.add("data")
    with pytest.raises(PermissionError, match="data"):
        read_index([tmp_path])


def test_a_pipe_in_the_place_of_an_image_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", {name[2:]: data for name, data in FILES.items()})
    os.mkfifo(root / "train/n01/c.JPEG")
    with pytest.raises(SourceError, match=r"c\.JPEG: a pipe, not a file"):
        read_index([root])
