"""GPUs as a made-up nvidia-smi lists them, and peaks by the names that it has for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.common.gpus import Gpu, driver_version, installed_gpus, peak_tflops

H100 = Gpu(name="NVIDIA H100 80GB HBM3", driver="580.65.06", capability=(9, 0))
TITAN = Gpu(name="NVIDIA TITAN RTX", driver="580.65.06", capability=(7, 5))


@pytest.mark.parametrize(
    ("script", "gpus", "error"),
    [
        ("echo NVIDIA H100 80GB HBM3, 580.65.06, 9.0; echo NVIDIA TITAN RTX, 580.65.06, 7.5", [H100, TITAN], ""),
        ("echo No devices were found; exit 6", [], "No devices were found"),
        ("exit 9", [], "nothing, exit 9"),
        (None, [], ""),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, gpus: list[Gpu], error: str
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed_gpus() == (gpus, error)
    assert driver_version() == ("580.65.06" if gpus else None)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", 70),
        ("rtx-4090", 165),
        ("Tesla T4", 65),
        ("NVIDIA RTX A4000", None),  # not an A40
        ("GeForce GTX 1080 Ti", None),
    ],
)
def test_peak_is_that_of_the_longest_name_whose_words_agree(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak
