"""The doctor's findings about cores, limits, disk and betons, from made-up machines."""

import resource
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.manifests import MANIFEST

from data_tools.beton.manifest import manifest_path, write_manifest
from data_tools.common.runtime import WAITING
from data_tools.doctor import machine_checks
from data_tools.doctor.machine_checks import Finding


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def put_beton(folder: Path, name: str, **changes: object) -> Path:
    """A file of the size that the manifest beside it says."""
    path = folder / name
    path.write_bytes(bytes(MANIFEST.bytes))
    write_manifest(replace(MANIFEST, beton=name, split=name.partition("_")[0], **changes), manifest_path(path))
    return path


def test_sound_betons_and_training_set_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(machine_checks.betons(tmp_path)) == ["FAIL"]
    assert f"--data.out='{tmp_path}/a b'" in str(next(machine_checks.betons(tmp_path / "a b")))
    put_beton(tmp_path, "train_160.beton")
    put_beton(tmp_path, "val_160.beton")
    findings = list(machine_checks.betons(tmp_path))
    assert levels(findings) == ["OK"] * 3
    assert str(findings[0]).endswith("train_160.beton: 3 images of 3 classes, 0.0 MB")
    monkeypatch.setattr(machine_checks, "available_memory", lambda: 10)
    (warning,) = (str(finding) for finding in machine_checks.betons(tmp_path) if finding.level != "OK")
    assert warning.startswith("WARN train_160.beton is")


def test_betons_that_are_not_whole(tmp_path: Path) -> None:
    with put_beton(tmp_path, "val_160.beton").open("ab") as file:
        file.write(b"more")
    for name in ("val_320.beton", "val_500_0.50_90.ffcv"):
        manifest_path(put_beton(tmp_path, name)).unlink()
    manifest_path(put_beton(tmp_path, "val_full.beton")).write_text("{}")
    (tmp_path / "train_96.beton.partial").touch()
    findings = [str(finding) for finding in machine_checks.betons(tmp_path)]
    assert [line[:4] for line in findings] == ["WARN", "FAIL", "FAIL", "FAIL", "FAIL"]
    assert ["python -m data_tools.adopt" in line for line in findings] == [False, False, True, True, False]
    assert ["write_datasets.py" in line for line in findings] == [True, True, False, False, True]


def test_betons_of_two_data_sets(tmp_path: Path) -> None:
    put_beton(tmp_path, "train_160.beton")
    put_beton(tmp_path, "train_96.beton", classes=("n01",))
    (failure,) = (str(finding) for finding in machine_checks.betons(tmp_path) if finding.level == "FAIL")
    assert "train_160.beton and train_96.beton hold different classes" in failure


def test_machine_with_too_little_of_everything_gets_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plenty = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(machine_checks, "usable_cores", lambda: 16)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: plenty)
    monkeypatch.setattr(machine_checks, "SHM", tmp_path)

    def findings() -> list[Finding]:
        checks = (machine_checks.cores(8), machine_checks.descriptors(), machine_checks.shared_memory(8))
        return [*checks, machine_checks.disk(tmp_path / "not" / "there")]

    assert levels(findings()) == ["OK"] * 4
    monkeypatch.setattr(machine_checks, "usable_cores", lambda: 15)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    plenty.free = 64 << 20
    assert levels(findings()) == ["WARN"] * 4
    assert "ulimit -n 512" in str(machine_checks.descriptors())
    assert machine_checks.shared_memory(1).level == "OK"


def test_waiting_threads_that_spin_get_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert machine_checks.waiting_threads().level == "OK"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert str(machine_checks.waiting_threads()).startswith("WARN OMP_WAIT_POLICY=active")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    assert str(machine_checks.waiting_threads()).startswith("WARN KMP_BLOCKTIME=200")
