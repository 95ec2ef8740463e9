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
from training.config.preflight import accumulation_steps, known_ranks
from training.config.run_config import Dist


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
    line = refused(f"--data.dir={data}", "--run.dir=/proc/run")  # root may write anywhere but there
    assert "run.dir: /proc" in line and "give another folder" in line
    assert "is not a folder" in refused("--run.plan", "--data.train_images=40", f"--run.dir={tmp_path / 'file'}")


@pytest.mark.parametrize("option", ["--run.resume={}", "--run.init_from={}", "--run.eval_only --run.checkpoint={}"])
def test_missing_checkpoint_is_refused(option: str, refused: Callable[..., str], tmp_path: Path) -> None:
    name = option.split("=")[0].split()[-1].removeprefix("--")
    options = option.format(tmp_path / "none.pt").split()
    line = refused(*options)
    assert f"{name}: {tmp_path / 'none.pt'}: no checkpoint here" in line
    assert "give the last.pt or best.pt of a run folder" in line
    line = refused(*option.format("https://example.org/a.pth").split())
    assert f"{name}: https:/example.org/a.pth is an address; nothing is downloaded; give a path to the file" in line
    (tmp_path / "old").mkdir()
    assert f"{tmp_path / 'old'} is a folder; give the last.pt" in refused(*option.format(tmp_path / "old").split())
    (tmp_path / "old/best.pt").touch()
    line = refused(*option.format(tmp_path / "old").split())
    assert f"{tmp_path / 'old'} is a folder; give {tmp_path / 'old/best.pt'}" in line
    assert "old/best.pt is empty; give the last.pt" in refused(*option.format(tmp_path / "old/best.pt").split())


@pytest.mark.parametrize("option", ["resume", "init_from"])
def test_checkpoint_that_the_new_run_would_move_aside_is_refused(
    option: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    best = tmp_path / "run/best.pt"
    best.parent.mkdir()
    best.write_bytes(b"weights")
    line = refused(f"--run.{option}={best}")
    assert f"run.{option}: {best} is in the run folder, whose files a new run moves aside; " in line
    assert "or give another --run.dir" in line
    assert "no beton here" in refused(f"--run.{option}={best}", f"--data.dir={tmp_path}", f"--run.dir={tmp_path / 'b'}")


def test_misspelt_word_for_resume_is_answered_with_the_word(refused: Callable[..., str]) -> None:
    assert "run.resume: atuo: no checkpoint here; did you mean auto?" in refused("--run.resume=atuo")
    assert "no checkpoint here; give the last.pt or best.pt" in refused("--run.resume=./none.pt")


def test_home_is_expanded_in_the_path_to_resume_from(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"run.resume: {tmp_path}/none.pt: no checkpoint here" in refused("--run.resume=~/none.pt")


@pytest.mark.parametrize("option", ["resume", "init_from"])
def test_started_run_does_not_need_the_checkpoint_that_it_began_from(
    option: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pt").touch()
    assert "no beton here" in refused(f"--run.{option}={tmp_path / 'gone.pt'}", f"--data.dir={tmp_path}")


def test_log_that_cannot_be_written_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"log.mllog: {tmp_path} is a folder; give another file" in refused(f"--log.mllog={tmp_path}")
    line = refused(f"--log.mllog={tmp_path / 'none/log'}")
    assert f"log.mllog: no folder {tmp_path / 'none'}; give another file" in line
    assert "no beton here" in refused(f"--log.mllog={tmp_path / 'run/log'}", f"--data.dir={tmp_path}")


@pytest.mark.parametrize("environment", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "0"}])
def test_environment_that_contradicts_itself_is_refused_for_a_plan_too(
    environment: dict[str, str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "environment: " in refused("--run.plan", "--data.train_images=40")


def test_all_missing_betons_are_named_with_the_command_that_makes_them(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    data = betons(tmp_path / "data", ("train_160", "val_160"))
    command = f"run write_datasets.py --data.source=SOURCE --data.out={data} --data.caps=full"
    line = refused(f"--data.dir={data}")
    assert f"{data}: no beton here named train_full, val_full; {command}" in line
    line = refused(f"--data.dir={data}", "--run.plan")
    assert f"no beton here named train_full; {command}; or give --data.train_images" in line


def test_batch_that_cannot_be_shared_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    data = betons(tmp_path / "data")
    plan = ["--run.plan", "--data.train_images=40"]
    for more in ([f"--data.dir={data}"], plan):
        line = refused(*more, "--dist.processes=2", "--dist.emulate_gpus=3")
        assert "dist.emulate_gpus: 3 is not a multiple of the 2 processes" in line
        line = refused(*more, "--dist.emulate_gpus=8")
        assert "8 on 8 GPUs is 64, but train_160 holds 40 images" in line


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
