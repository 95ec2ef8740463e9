"""The doctor's findings: from made-up machines, and from this one with parts of it broken."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.images import make_sorted_tar, spec_for

from data_tools.convert.converter import convert
from data_tools.doctor import machine_checks, software_checks
from data_tools.doctor.machine_checks import Finding
from data_tools.doctor.software_checks import Card
from data_tools.native import codec

ROOT = Path(__file__).parents[2]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def doctor(*arguments: str, **environment: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-m", "data_tools.doctor", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def fake_torch(arches: list[str], cuda: str | None = "13.2", devices: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="2.15.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(get_arch_list=lambda: arches, device_count=lambda: devices),
    )


def card(name: str, *capability: int, driver: str = "580.65.06") -> Card:
    return Card(name=name, driver=driver, capability=capability)


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (CUDA_13, (7, 0), False),  # V100
        (CUDA_13, (7, 5), True),  # Titan RTX
        (CUDA_13, (8, 9), True),  # L40: sm_86 and sm_80 run on it
        (CUDA_13, (9, 0), True),
        (CUDA_13, (10, 3), True),  # B300
        (CUDA_13, (11, 0), False),  # machine code of 10.0 does not run on another generation
        (["sm_86"], (8, 0), False),
        (["sm_80", "compute_80"], (12, 0), True),  # PTX is translated for what is newer
        (["sm_80", "compute_90"], (7, 5), False),
        (["sm_90a"], (9, 0), True),
        ([], (9, 0), False),
    ],
)
def test_which_code_runs_on_which_card(built_for: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert software_checks.supports(built_for, capability) == runs


def test_cards_of_nvidia_smi() -> None:
    text = "NVIDIA H100 80GB HBM3, 580.65.06, 9.0\nNVIDIA TITAN RTX, 580.65.06, 7.5\n"
    assert software_checks.read_cards(text) == [card("NVIDIA H100 80GB HBM3", 9, 0), card("NVIDIA TITAN RTX", 7, 5)]
    assert software_checks.read_cards("No devices were found\n") == []


def test_driver_and_cards() -> None:
    torch = fake_torch(CUDA_13, devices=2)
    both = [card("H100", 9, 0), card("V100", 7, 0)]
    good, h100, v100 = software_checks.gpu(both, "", (13, 0), torch)
    assert (good.level, h100.level, v100.level) == ("OK", "OK", "FAIL")
    assert "V100, compute capability 7.0, and this torch is for sm_75" in str(v100)
    old, _ = software_checks.gpu([card("H100", 9, 0, driver="535.54")], "", (12, 2), torch)
    assert "driver 535.54 (CUDA up to 12.2), but torch needs CUDA 13.2: install driver 580" in str(old)
    assert levels(software_checks.gpu([card("H100", 9, 0)], "", (13, 0), fake_torch([], cuda=None))) == ["FAIL", "OK"]
    assert levels(software_checks.gpu([card("H100", 9, 0)], "", (13, 0), None)) == ["OK", "OK"]
    assert levels(software_checks.gpu([], "", None, torch)) == ["WARN"]
    assert levels(software_checks.gpu([], "No devices were found", (13, 0), torch)) == ["FAIL"]


def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    *_, last = software_checks.gpu([card("H100", 9, 0)] * 8, "", (13, 0), fake_torch(CUDA_13))
    assert str(last) == "WARN torch sees 1 of 8 GPUs: CUDA_VISIBLE_DEVICES is '0'"


def test_this_machine(betons: Path) -> None:
    status, lines, err = doctor("--data.dir", str(betons))
    assert status == int(any(line.startswith("FAIL") for line in lines)), err
    assert all(re.match(r"OK   \S|(WARN|FAIL) \S.*: \S", line) for line in lines)
    text = "\n".join(lines)
    for what in ("OK   ffcv 1.", "native decoder with libjpeg-turbo", "OpenCV", "cores may be used", "/dev/shm"):
        assert what in text
    assert "train_160.beton: 40 images of 4 classes" in text


def test_vectors_are_those_of_the_processor() -> None:
    flags = set(re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text() + "\nflags:", re.MULTILINE)[1].split())
    needed = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}  # x86-64-v3, less what avx2 implies
    assert (codec.vectors() == "AVX2") == (needed <= flags)


def test_what_cannot_be_imported_is_a_line(tmp_path: Path) -> None:
    """In place of the modules: what a broken installation raises."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open\\nshared object file')")
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / "numba.py").write_text("raise RuntimeError('numba needs another numpy')")
    status, lines, err = doctor(PYTHONPATH=str(tmp_path))
    assert (status, err) == (1, "")
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["torch", "ffcv", "OpenCV", "numba"]
    assert "(OSError: libcudart.so.13: cannot open shared object file): `make env`" in failed[0]
    assert "pip install --force-reinstall opencv-python-headless" in failed[2]


def test_the_threading_layer_that_aborts() -> None:
    _, lines, _ = doctor(NUMBA_THREADING_LAYER="workqueue")
    (line,) = (line for line in lines if "threading layer" in line)
    assert line.startswith("WARN") and "libgomp1" in line


def test_betons(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(machine_checks.betons(tmp_path)) == ["FAIL"]
    shutil.copytree(betons, tmp_path, dirs_exist_ok=True)
    assert set(levels(machine_checks.betons(tmp_path))) == {"OK"}
    monkeypatch.setattr(machine_checks, "available_memory", lambda: 1000)
    assert "train_160.beton has" in next(str(f) for f in machine_checks.betons(tmp_path) if f.level == "WARN")
    assert levels(machine_checks.betons(tmp_path)).count("WARN") == 3  # the training sets
    monkeypatch.undo()
    with (tmp_path / "val_160.beton").open("ab") as file:
        file.write(b"more")
    (tmp_path / "val_320.beton.json").unlink()
    (tmp_path / "val_full.beton.json").write_text("{}")
    (tmp_path / "train_96.beton.partial").touch()
    found = [str(f) for f in machine_checks.betons(tmp_path) if f.level != "OK"]
    assert [line[:4] for line in found] == ["WARN", "FAIL", "FAIL", "FAIL"]
    assert all(re.search("write_datasets.py", line) for line in found)


def test_betons_of_two_data_sets(betons: Path, tmp_path: Path) -> None:
    shutil.copytree(betons, tmp_path, dirs_exist_ok=True)
    other = make_sorted_tar(tmp_path / "other.tar", classes=2, per_class=2, val_per_class=1)
    convert(spec_for(other, tmp_path / "other", caps=("96",)))
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / path.name)
    (line,) = (str(f) for f in machine_checks.betons(tmp_path) if f.level == "FAIL")
    assert "train_160.beton and train_96.beton hold different classes" in line


def test_a_machine_that_is_short_of_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plenty = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(machine_checks, "usable_cores", lambda: 16)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: plenty)
    monkeypatch.setattr(machine_checks, "SHM", tmp_path)

    def all_of_it() -> list[Finding]:
        checks = (machine_checks.cores(8), machine_checks.descriptors(), machine_checks.shared_memory(8))
        return [*checks, machine_checks.disk(tmp_path / "not" / "there")]

    assert levels(all_of_it()) == ["OK"] * 4
    monkeypatch.setattr(machine_checks, "usable_cores", lambda: 15)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    plenty.free = 64 << 20
    assert levels(all_of_it()) == ["WARN"] * 4
    assert "ulimit -n 512" in str(machine_checks.descriptors())
    assert machine_checks.shared_memory(1).level == "OK"
