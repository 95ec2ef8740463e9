"""Betons that are not what was written: verify finds every fault."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.betons import copy_beton, decoded_samples, overwrite, sample_place

from data_tools import verify
from data_tools.beton.format import HEADER, SAMPLES_START, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path, read_manifest


@pytest.fixture
def copied(tmp_path: Path, betons: Path) -> Path:
    """A beton with its manifest and checksums, to be damaged."""
    return copy_beton(betons / "val_160.beton", tmp_path)


def faults(path: Path, full: bool = True) -> list[str]:
    found = list(verify.verify(path, full=full))
    assert all(fault and "\n" not in fault for fault in found)
    return found


def test_every_flipped_byte_is_found(copied: Path) -> None:
    """Wherever it is: tables, pictures, or the zeros between them."""
    assert faults(copied) == []
    whole = copied.read_bytes()
    found = read_layout(copied)
    table, head = int(found.header["alloc_table_ptr"]), SAMPLES_START + found.samples.nbytes
    pictures = [int(image["data_ptr"]) for image in found.samples["f0"]]
    rng = random.Random(1)
    places = [rng.randrange(HEADER.itemsize) for _ in range(8)]
    places += [rng.randrange(head) for _ in range(12)]
    places += [rng.randrange(SAMPLES_START, head) for _ in range(12)]
    places += [rng.randrange(table, len(whole)) for _ in range(12)]
    places += [each + rng.randrange(1000) for each in pictures]
    places += [rng.randrange(head, table) for _ in range(12)]
    for at in places:
        overwrite(copied, at, bytes([whole[at] ^ (1 << rng.randrange(8))]))
        assert faults(copied), f"byte {at} of {len(whole)}"
        if at < head or at >= table:
            assert faults(copied, full=False), f"byte {at} of the tables"
        overwrite(copied, at, whole[at : at + 1])


def test_damaged_picture_is_named(copied: Path) -> None:
    found = read_layout(copied)
    at = sample_place(copied, 7)[0] + 900
    overwrite(copied, at, bytes([copied.read_bytes()[at] ^ 1]))
    wnid = read_manifest(copied).classes[int(found.samples["f1"][7])]
    assert [fault.partition(": ")[2] for fault in faults(copied)] == [
        f"sample 7 ({wnid}): its bytes do not match their checksum"
    ]
    assert faults(copied, full=False) == []


@pytest.mark.parametrize("keep", [0, 10, 2000, 9 << 20, -24, None])
def test_file_of_another_length_is_found(copied: Path, keep: int | None) -> None:
    copied.write_bytes(copied.read_bytes()[:keep] if keep is not None else copied.read_bytes() + bytes(24))
    assert faults(copied, full=False)


def test_manifest_and_checksums_of_another_beton_are_found(copied: Path, betons: Path) -> None:
    sidecar, record = checksums_path(copied), manifest_path(copied)
    kept = sidecar.read_bytes(), record.read_bytes()
    sidecar.write_bytes((betons / "val_320.beton.xxh64").read_bytes())
    assert "val_160.beton.xxh64" in faults(copied, full=False)[0]
    sidecar.unlink()
    assert "val_160.beton.xxh64" in faults(copied, full=False)[0]
    sidecar.write_bytes(kept[0])
    record.write_bytes((betons / "val_320.beton.json").read_bytes())
    assert faults(copied, full=False)
    record.unlink()
    assert "no manifest beside the beton" in faults(copied, full=False)[0]
    record.write_bytes(kept[1])
    assert faults(copied) == []


def test_command_line_prints_sound_or_the_fault(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(copied), "--full"]) == 0
    assert "sound" in capsys.readouterr().out
    assert verify.main([str(copied), str(copied.with_name("none.beton"))]) == 1
    assert "no beton here; run write_datasets.py" in capsys.readouterr().out


def test_picture_of_another_size_than_in_the_tables_is_found(copied: Path) -> None:
    """Without a manifest to compare with, the picture itself is decoded."""
    found = read_layout(copied)
    size = found.samples["f0"]["width"][0], found.samples["f0"]["height"][0]
    assert decoded_samples(copied)[0].size == size
    overwrite(copied, SAMPLES_START + 1, bytes([copied.read_bytes()[SAMPLES_START + 1] + 1]))  # its width
    manifest_path(copied).unlink()
    assert any("sample 0" in fault and "decodes to" in fault for fault in faults(copied))
