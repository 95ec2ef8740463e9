"""The numbers of a run folder for a report: GPU-hours, summary, and the published run beside it."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import ROOT, SESSION, run_folder

from training.reporting import report_html
from training.reporting.run_folder import PUBLISHED, published, read_runs, run_summary


def test_gpu_hours_of_a_run_continued_on_other_gpus(tmp_path: Path) -> None:
    """One hour on 8 GPUs, then half an hour on 2; until 1.2 h that is 8 + 0.4."""
    moved = replace(SESSION, from_epoch=10, from_hours=1.0, processes=2, gpus=("NVIDIA H100",) * 2, driver=None)
    (run,) = read_runs([run_folder(tmp_path / "run", [50] * 15, [SESSION, moved])])
    assert run.gpu_hours(1.2) == pytest.approx(8.4)
    assert run.gpu_hours(1.5) == pytest.approx(9.0)
    assert run.gpu_hours(0.5) == pytest.approx(4.0)
    assert "8 × NVIDIA TITAN RTX" in (said := dict(run_summary(run, None))["hardware"])
    assert "; then 2 × NVIDIA H100; AMD" in said


def test_summary_says_what_is_not_known(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50, 60], [replace(SESSION, gpus=())])])
    said = dict(run_summary(run, 3.0))
    assert said["hardware"].startswith("no GPU")
    assert said["93 % top-5"] == "not reached"
    assert said["cost"] == "unknown: no GPU was recorded"
    assert said["done"] == "2 of 28 epochs, 0.2000 h"
    assert said["loss, last"] == "3.5000 in training, n/a in validation"
    assert "GPU-hours" not in said


def test_summary_of_few_classes_has_top1_alone(tmp_path: Path) -> None:
    few = replace(SESSION, classes=10, images={"val_160": 400})
    (run,) = read_runs([run_folder(tmp_path / "run", [97.25, 100], [few], hours_an_epoch=0.001)])
    said = dict(run_summary(run, 2.0))
    assert said["best top-1"] == "80.0 %, epoch 2"
    assert said["done"] == "2 of 28 epochs, 7.2 s"
    assert said["GPU-seconds"] == "57.6000"
    assert not [text for pair in said.items() for text in pair if "top-5" in text or "93" in text]


def test_published_run_has_the_published_numbers() -> None:
    found = published()
    assert found["epoch"] == list(range(1, 28))
    assert (found["hours"][0], found["top1"][0], found["top5"][-1]) == (0.0539, 7.28, 93.0179)


def test_data_files_are_declared_as_package_data() -> None:
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    declared = package_data["training.reporting"]
    assert {PUBLISHED.name, report_html.STYLE.name} == set(declared)
    assert all((ROOT / "training/reporting" / name).is_file() for name in declared)
