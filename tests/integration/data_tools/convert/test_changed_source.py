"""A source whose contents changed under the same names is neither taken for the old one nor mixed with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from helpers.betons import file_digests
from helpers.images import jpeg, photo, spec_for, write_folder, write_tar
from pyarrow import parquet

from data_tools.beton.manifest import manifest_path
from data_tools.convert.converter import convert
from data_tools.convert.journal import JournalError
from data_tools.convert.plan import ConversionError

IMAGES = 40
LENGTH = 4000


def pictures(seed: int) -> dict[str, bytes]:
    """Pictures that are all equally long, so that only contents and times tell them apart."""
    named = {}
    for at in range(IMAGES):
        data = jpeg(photo(seed + at, 64, 48), quality=60)
        comment = LENGTH - len(data) - 4
        named[f"train/{at % 2}/{at}.jpg"] = (
            data[:2] + b"\xff\xfe" + (comment + 2).to_bytes(2) + bytes(comment) + data[2:]
        )
    return named


def as_tar(folder: Path, seed: int) -> Path:
    return write_tar(folder / "a.tar", pictures(seed))


def as_folder(folder: Path, seed: int) -> Path:
    root = write_folder(folder / "images", pictures(seed))
    for path in root.rglob("*.jpg"):
        os.utime(path, ns=(0, 0))
    return root


def as_parquet(folder: Path, seed: int) -> Path:
    rows = [{"bytes": data, "path": name} for name, data in pictures(seed).items()]
    table = pyarrow.table({"image": rows, "label": [at % 2 for at in range(IMAGES)]})
    path = folder / "train.parquet"
    parquet.write_table(table, path, 5, compression="none", use_dictionary=False, write_statistics=False)
    return path


KINDS = pytest.mark.parametrize(
    ("make", "reason"),
    [
        (as_tar, "its images have other contents or times of modification"),
        (as_folder, "its files have other contents or times of modification"),
        (as_parquet, "its shards have other contents"),
    ],
)


@KINDS
def test_complete_beton_of_a_changed_source_is_refused(
    tmp_path: Path, make: Callable[[Path, int], Path], reason: str
) -> None:
    spec = spec_for(make(tmp_path, 0), tmp_path / "out", caps=("160",), splits=("train",), workers=1)
    convert(spec)
    written = file_digests(tmp_path / "out")
    assert not convert(spec)[0].seconds
    size = spec.data.source[0].stat().st_size
    make(tmp_path, 100)
    assert spec.data.source[0].stat().st_size == size
    with pytest.raises(ConversionError, match=rf"already exists, made before the source changed \({reason}\); remove"):
        convert(spec)
    assert file_digests(tmp_path / "out") == written


class Stop(Exception):
    pass


@KINDS
def test_interrupted_conversion_of_a_changed_source_is_refused(
    tmp_path: Path, make: Callable[[Path, int], Path], reason: str
) -> None:
    def stop(done: int, total: int) -> None:
        if 0 < done < total:
            raise Stop

    spec = spec_for(make(tmp_path, 0), tmp_path / "out", caps=("160",), splits=("train",), workers=1)
    with pytest.raises(Stop):
        convert(spec, report=stop)
    make(tmp_path, 100)
    changed = r"interrupted here \(the contents or times of modification of the source's images have changed\)"
    with pytest.raises(JournalError, match=changed):
        convert(spec)
    make(tmp_path, 0)
    assert convert(spec)[0].images == IMAGES


def test_copy_of_a_source_is_the_same_source(tmp_path: Path) -> None:
    for make in (as_tar, as_folder, as_parquet):
        out, moved = tmp_path / f"out_{make.__name__}", tmp_path / f"moved_{make.__name__}"
        source = make(tmp_path, 0)
        convert(spec_for(source, out, caps=("160",), splits=("train",), workers=1))
        moved.mkdir()
        copied = moved / source.name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copied)
        assert not convert(spec_for(copied, out, caps=("160",), splits=("train",), workers=1))[0].seconds
    convert(spec_for(as_folder(tmp_path, 0), tmp_path / "out_as_tar", caps=("160",), splits=("train",)))


def test_beton_of_manifest_version_2_is_left_as_it_is(tmp_path: Path) -> None:
    spec = spec_for(as_tar(tmp_path, 0), tmp_path / "out", caps=("160",), splits=("train",), workers=1)
    convert(spec)
    path = manifest_path(tmp_path / "out/train_160.beton")
    manifest = json.loads(path.read_text())
    del manifest["source_state"]
    path.write_text(json.dumps(manifest | {"version": 2}))
    as_tar(tmp_path, 100)
    assert not convert(spec)[0].seconds
