"""Mistakes that train_imagenet.py answers in one line before it loads torch."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import recipes
from helpers.manifests import MANIFEST

import train_imagenet
import training
from data_tools.beton.manifest import manifest_path, write_manifest
from training.config.run_config import Dist
from training.config.startup_checks import accumulation_steps, known_ranks


def betons(folder: Path, names: tuple[str, ...] = ("train_160", "val_160", "train_full", "val_full")) -> Path:
    """Empty files with manifests that say so."""
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / f"{name}.beton"
        path.write_bytes(b"x" * MANIFEST.bytes)
        write_manifest(dataclasses.replace(MANIFEST, images=40), manifest_path(path))
    return folder


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The line that the tiny recipe with these arguments is refused with; importing the trainer would raise."""
    for name in ("training.trainer", "training.distributed.launcher"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(training, "trainer", raising=False)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    recipe = recipes.write_recipe(tmp_path / "tiny.yaml", schedule={"gpus": 1})

    def call(*argv: str) -> str:
        status = train_imagenet.main(["--config-file", str(recipe), f"--run.dir={tmp_path / 'run'}", *argv])
        out, err = capsys.readouterr()
        assert (status, out, err.count("error: ")) == (2, "", 1), (status, out, err)
        assert err.count("\n") == 1 + err.count("\n  remedy: ")  # which has a line of its own if it is long
        return err.replace("\n  remedy: ", "; ")

    return call


def test_run_folder_that_cannot_be_made_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    data = betons(tmp_path / "data")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in ("file", "file/run/1", "link", "link/run"):
        line = refused(f"--data.dir={data}", f"--run.dir={tmp_path / folder}")
        assert "run.dir: " in line and "is not a folder; give another folder" in line, line
    assert "run.dir: s3:/b/run is an address; give another" in refused(f"--data.dir={data}", "--run.dir=s3://b/run")
    line = refused(f"--data.dir={data}", f"--run.dir={tmp_path}/caf\udce9")
    assert "caf\\udce9 is not UTF-8, which TensorBoard needs; give another folder" in line
    line = refused(f"--data.dir={data}", "--run.dir=/proc/run")  # root may write anywhere but there
    assert "run.dir: /proc" in line and "give another folder" in line


def test_missing_weights_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    def answer(path: object) -> str:
        return refused(f"--run.init_from={path}")

    line = answer(tmp_path / "none.pt")
    assert f"run.init_from: {tmp_path / 'none.pt'}: no checkpoint here; give the last.pt or best.pt" in line
    line = answer("https://example.org/a.pth")
    assert "https:/example.org/a.pth is an address; nothing is downloaded; give a path to the file" in line
    old = tmp_path / "old"
    old.mkdir()
    assert f"{old} is a folder; give the last.pt" in answer(old)
    (old / "best.pt").touch()
    assert f"{old} is a folder; give {old / 'best.pt'}" in answer(old)
    assert "old/best.pt is empty; give the last.pt" in answer(old / "best.pt")
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run/last.pt").touch()
    assert f"give '{tmp_path / 'my run/last.pt'}'" in answer(tmp_path / "my run")


@pytest.mark.parametrize("name", ["best.pt", "epochs.csv", "config.json", "events.out.tfevents.1.host.2.0"])
def test_files_of_another_run_without_a_checkpoint_are_refused(
    name: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    line = refused(f"--data.dir={tmp_path}")
    assert f"run.dir: {tmp_path / 'run'} holds {name} of another run, but no checkpoint to continue from; " in line
    assert line.endswith("give another --run.dir\n")


def test_started_run_does_not_need_the_weights_that_it_began_from(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pt").touch()
    (tmp_path / "run/best.pt").touch()
    assert "no beton here" in refused(f"--run.init_from={tmp_path / 'gone.pt'}", f"--data.dir={tmp_path}")


@pytest.mark.parametrize("environment", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "0"}])
def test_environment_that_contradicts_itself_is_refused(
    environment: dict[str, str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "environment: " in refused()


@pytest.mark.parametrize("folder", ["data", "my data"])
def test_all_missing_betons_are_named_with_the_command_that_makes_them(
    refused: Callable[..., str], tmp_path: Path, folder: str
) -> None:
    data = betons(tmp_path / folder, ("train_160", "val_160"))
    out = f"'{data}'" if " " in folder else str(data)
    command = f"run write_datasets.py --data.source=SOURCE --data.out={out} --data.caps=full"
    line = refused(f"--data.dir={data}")
    assert f"{data}: no beton here named train_full, val_full; {command}" in line
    line = refused(f"--data.dir={data / 'train_160.beton'}")
    assert line.endswith(f"train_160.beton: a file; give the folder of all betons, {data}\n")


def test_batch_that_cannot_be_shared_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    data = f"--data.dir={betons(tmp_path / 'data')}"
    line = refused(data, "--dist.processes=2", "--dist.emulate_gpus=3")
    assert "dist.emulate_gpus: 3 is not a multiple of the 2 processes" in line
    assert "8 on 8 GPUs is 64, but train_160 holds 40 images" in refused(data, "--dist.emulate_gpus=8")


@pytest.mark.parametrize(
    ("options", "environment", "ranks", "steps"),
    [
        ({}, {}, None, 1),
        ({"device": "cpu"}, {}, 1, 1),
        ({"processes": 4, "emulate_gpus": 8}, {}, 4, 2),
        ({"processes": 4, "emulate_gpus": 8}, {"RANK": "1", "WORLD_SIZE": "2"}, 2, 4),
    ],
)
def test_processes_and_accumulation(
    options: dict[str, object], environment: dict[str, str], ranks: int | None, steps: int
) -> None:
    dist = Dist(**options)  # type: ignore[arg-type]
    assert known_ranks(dist, environment) == ranks
    assert accumulation_steps(dist, ranks or 1) == steps
