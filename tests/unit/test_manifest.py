"""The record beside a beton: what is written is read, what is not ours is refused with the remedy."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.beton.manifest import (
    MANIFEST_VERSION,
    Manifest,
    ManifestError,
    Skipped,
    Source,
    manifest_path,
    read_manifest,
    write_manifest,
)

RECORD = Manifest(
    version=MANIFEST_VERSION,
    beton="train_160.beton",
    split="train",
    cap=160,
    side="shorter",
    quality=90,
    seekable=True,
    mode="jpg",
    raw_share=0.0,
    seed=0,
    originals=False,
    images=3,
    bytes=100,
    page_bytes=1 << 23,
    modes={"jpg": 3, "raw": 0, "original": 0},
    digest="d",
    checksums_digest="c",
    source_digest="s",
    classes=("n01", "n02", "größe"),
    sources=(Source(name="a.tar", bytes=5),),
    skipped=(Skipped(image="n01/x.JPEG", reason="empty file"),),
    versions={"ffcv": "1.0.2"},
)


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "train_160.beton"
    path.write_bytes(b"")
    write_manifest(RECORD, manifest_path(path))
    return path


def test_what_is_written_is_read(beton: Path) -> None:
    assert read_manifest(beton) == RECORD
    assert [file.name for file in beton.parent.iterdir() if "partial" in file.name] == []
    again = replace(RECORD, cap=None)
    write_manifest(again, manifest_path(beton))
    assert read_manifest(beton).cap is None


def test_digest_of_the_class_list_by_hand() -> None:
    assert RECORD.classes_digest == hashlib.sha256("n01\nn02\ngröße\n".encode()).hexdigest()


def test_missing_files_say_what_to_do(beton: Path) -> None:
    manifest_path(beton).unlink()
    with pytest.raises(FileNotFoundError, match=r"train_160\.beton\.json: no manifest beside the beton"):
        read_manifest(beton)
    beton.unlink()
    with pytest.raises(FileNotFoundError, match=r"train_160\.beton: no beton here; run write_datasets\.py"):
        read_manifest(beton)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": None},
        {"surplus": 1},
        {"images": "3"},
        {"images": -1},
        {"sources": [{"name": "x"}]},
        {"skipped": [["x", "y"]]},
    ],
)
def test_what_is_not_ours_is_refused(beton: Path, change: dict[str, object]) -> None:
    path = manifest_path(beton)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ManifestError, match=r"\.json: not a manifest of version 2 .*run write_datasets\.py again"):
        read_manifest(beton)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_no_json_is_refused(beton: Path, text: str) -> None:
    manifest_path(beton).write_text(text)
    with pytest.raises(ManifestError):
        read_manifest(beton)


def test_it_needs_only_the_standard_library() -> None:
    heavy = "{'numpy', 'torch', 'ffcv', 'cv2', 'PIL', 'numba'}"
    code = f"import sys, data_tools.manifest; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
