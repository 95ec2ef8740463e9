"""The manifest beside a beton: it is read as written, and anything else is refused with a remedy."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.manifests import MANIFEST

from data_tools.beton.manifest import ManifestError, manifest_path, read_manifest, write_manifest


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "train_160.beton"
    path.write_bytes(bytes(MANIFEST.bytes))
    write_manifest(MANIFEST, manifest_path(path))
    return path


def test_manifest_is_read_as_it_was_written(beton: Path) -> None:
    assert read_manifest(beton) == MANIFEST
    assert [file.name for file in beton.parent.iterdir() if "partial" in file.name] == []
    again = replace(MANIFEST, cap=None)
    write_manifest(again, manifest_path(beton))
    assert read_manifest(beton).cap is None


def test_names_of_any_bytes_are_kept_in_valid_utf8(beton: Path) -> None:
    odd = replace(MANIFEST, classes=("a\n", "caf\udce8", "caf\udce9", "größe", "\ud800"))
    write_manifest(odd, manifest_path(beton))
    assert read_manifest(beton) == odd
    assert '"caf\\udce9",\n  "größe"' in manifest_path(beton).read_bytes().decode("utf-8")
    assert replace(odd, classes=("caf\udce9",)).classes_digest == hashlib.sha256(b"caf\xe9\n").hexdigest()
    assert odd.classes_digest != MANIFEST.classes_digest


@pytest.mark.parametrize(
    ("stored", "filter"),
    [
        ({"cap": 160, "originals": False}, "area"),
        ({"cap": None, "originals": False}, None),
        ({"cap": 160, "originals": True}, None),  # of a source that had this size
    ],
)
def test_manifest_of_version_3_was_made_by_area(beton: Path, stored: dict[str, object], filter: str | None) -> None:
    path = manifest_path(beton)
    content = json.loads(path.read_text()) | stored | {"version": 3}
    del content["filter"]
    path.write_text(json.dumps(content))
    assert read_manifest(beton) == replace(MANIFEST, version=3, filter=filter, **stored)
    path.write_text(json.dumps(content | {"version": 4}))
    with pytest.raises(ManifestError, match="wrong keys: filter"):
        read_manifest(beton)


def test_manifest_of_version_2_is_read(beton: Path) -> None:
    path = manifest_path(beton)
    content = json.loads(path.read_text()) | {"version": 2}
    del content["source_state"], content["filter"]
    path.write_text(json.dumps(content))
    assert read_manifest(beton) == replace(MANIFEST, version=2, source_state={})
    path.write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(ManifestError, match="wrong keys: source_state"):
        read_manifest(beton)


def test_missing_beton_or_manifest_is_refused_with_the_remedy(beton: Path) -> None:
    manifest_path(beton).unlink()
    with pytest.raises(FileNotFoundError, match=r"train_160\.beton\.json: no manifest beside the beton"):
        read_manifest(beton)
    beton.unlink()
    with pytest.raises(FileNotFoundError, match=r"train_160\.beton: no beton here; run write_datasets\.py"):
        read_manifest(beton)


def test_beton_of_another_size_is_refused(beton: Path) -> None:
    beton.write_bytes(bytes(MANIFEST.bytes - 1))
    with pytest.raises(ManifestError, match=r"train_160\.beton: 99 bytes, but its manifest says 100; copy it again"):
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
        None,
    ],
)
def test_foreign_or_damaged_manifest_is_refused_with_the_remedy(beton: Path, change: dict[str, object] | None) -> None:
    path = manifest_path(beton)
    path.write_text(json.dumps(json.loads(path.read_text()) | change) if change else "{")
    words = r"\.json: not a manifest of version 2, 3 or 4 .*; remove it, and run write_datasets\.py or data_tools"
    with pytest.raises(ManifestError, match=words):
        read_manifest(beton)
