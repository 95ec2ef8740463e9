"""Files that stock FFCV wrote, adopted: they train here, stock FFCV still reads them, and damaged ones are refused."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT
from helpers.betons import batches_in_order, decoded_samples, overwrite, sample_place
from helpers.recipes import RECIPES
from helpers.stock import MODES, Photos, write_stock, write_stock_sets
from helpers.training_runs import attempt, run_main, train
from ruamel.yaml import YAML

from data_tools import adopt, verify
from data_tools.beton import samples
from data_tools.beton.format import HEADER, SAMPLES_START, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path, read_manifest
from data_tools.doctor.machine_checks import betons as examine_betons
from training.loader.loaders import TrainLoader
from training.runlog.epoch_table import read_epochs

THEIRS = sorted(name for name in RECIPES if name.startswith("rn50_"))  # ffcv-imagenet's recipes
RECIPE_OF = dict(zip(MODES, (*THEIRS[:2], *THEIRS[-2:]), strict=True))


def run(*arguments: object) -> tuple[int, str, str]:
    return run_main(adopt.main, [str(each) for each in arguments])


def adopted(*arguments: object) -> str:
    status, out, err = run(*arguments)
    assert status == 0, out + err
    return out


@pytest.fixture(
    scope="module",
    params=[pytest.param(mode, marks=pytest.mark.slow if mode in ("jpg", "smart") else ()) for mode in MODES],
)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """A mode, and a training and a validation file in it; not to be changed."""
    return request.param, write_stock_sets(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of JPEGs and pixels; not to be changed."""
    return write_stock(tmp_path_factory.mktemp("mixed") / "train_500_0.50_90.ffcv", Photos(40))


@pytest.fixture
def copied(mixed: Path, tmp_path: Path) -> Path:
    path = tmp_path / mixed.name
    path.write_bytes(mixed.read_bytes())
    return path


def small_recipe(name: str, path: Path) -> Path:
    """One of the recipes, with everything that is large made small."""
    recipe = YAML(typ="safe").load(RECIPES[name])
    (phase,) = recipe["schedule"]["phases"]
    phase |= {"epochs": [0, 2], "px": 64, "px_ramp": {"from": 32, "epochs": [0, 2]}, "batch_per_gpu": 8}
    phase |= {"val_px": 64, "val_batch": 4, "lr": [{"epochs": [0, 2], "from": 0.01, "to": 0.0}]}
    recipe["model"] |= {"arch": "resnet18"}
    recipe["train"] |= {"amp": "fp32", "loss_scale": 1}
    recipe["dist"] = {"device": "cpu"}
    path.write_text(json.dumps(recipe))
    return path


def test_stock_file_of_each_mode_is_adopted_and_trains(stock: tuple[str, list[Path]], tmp_path: Path) -> None:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader

    mode, files = stock
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    adopted(*files)
    for path, named in zip(files, ("train_500.beton", "val_500.beton"), strict=True):
        for name in (path, path.with_name(named)):
            assert list(verify.verify(name, full=True)) == []
        manifest = read_manifest(path)
        modes = (manifest.modes["jpg"] > 0, manifest.modes["raw"] > 0)
        assert modes == {"raw": (False, True), "jpg": (True, False)}.get(mode, (True, True))
        assert (manifest.cap, manifest.side) == (500, "longer")
        assert manifest.classes == ("0", "1", "2", "3")
    assert {finding.level for finding in examine_betons(files[0].parent)} == {"OK"}
    train(small_recipe(RECIPE_OF[mode], tmp_path / "recipe.yaml"), tmp_path / "run", f"--data.dir={files[0].parent}")
    rows = read_epochs(tmp_path / "run")
    assert [(row.epoch, row.px) for row in rows] == [(1, 32), (2, 64)]
    pipelines = {"image": [CenterCropRGBImageDecoder((64, 64), 1.0)], "label": [IntDecoder()]}
    loader = Loader(str(files[0]), batch_size=8, num_workers=1, drop_last=False, pipelines=pipelines)
    assert np.concatenate([labels.copy() for _, labels in loader]).ravel().tolist() == [at % 4 for at in range(40)]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in files] == before


def damaged(path: Path, mode: str, sample: int) -> None:
    """In a JPEG, or in the tables."""
    image = read_layout(path).samples["f0"]
    at, size = sample_place(path, sample)
    row = SAMPLES_START + 24 * sample
    if mode == "jpg":
        overwrite(path, at + size // 2, bytes(2000))
    elif mode == "proportion":
        overwrite(path, row + 1, struct.pack("<H", int(image["width"][sample]) + 1))
    else:
        overwrite(path, row + 16, struct.pack("<q", {"raw": -1, "smart": 1 << 40}[mode]))


def test_damaged_file_of_each_mode_is_refused_by_sample(stock: tuple[str, list[Path]], tmp_path: Path) -> None:
    mode, files = stock
    path = tmp_path / files[0].name
    path.write_bytes(files[0].read_bytes())
    damaged(path, mode, 17)
    status, out, err = run(path)
    assert (status, err) == (1, "")
    assert "sample 17" in out, out
    assert out.splitlines()[-1] == f"{path}: damaged, not adopted"
    assert len(out.splitlines()) == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [1000, 3000, 9 << 20, -1, None])
def test_unfinished_file_is_refused_in_one_line(copied: Path, keep: int | None) -> None:
    """FFCV's header is there from the beginning, and gets the place of the alloc table at the end."""
    if keep is None:
        overwrite(copied, HEADER.fields["alloc_table_ptr"][1], bytes(8))
    else:
        copied.write_bytes(copied.read_bytes()[:keep])
    status, out, err = run(copied)
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert str(copied) in err
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_faults_are_listed_and_a_sound_file_beside_is_adopted(copied: Path, tmp_path: Path) -> None:
    jpegs = np.flatnonzero(read_layout(copied).samples["f0"]["mode"] == 0)
    for sample in jpegs[[1, 3]]:
        overwrite(copied, sample_place(copied, sample)[0] + 20, bytes(400))
    sound = write_stock(tmp_path / "other" / "val.ffcv", Photos(5))
    status, out, _ = run(copied, sound)
    assert status == 1
    for sample in jpegs[[1, 3]]:
        assert f"{copied}: sample {sample}: JPEG: " in out
    assert manifest_path(sound).exists()
    assert not manifest_path(copied).exists()


@pytest.mark.parametrize("label_first", [False, True])
def test_fields_may_have_any_names_and_order(tmp_path: Path, label_first: bool) -> None:
    from ffcv.fields import IntField, RGBImageField

    fields = [("pixels", RGBImageField("proportion", 500)), ("a_name_of_16_let", IntField())]
    path = tmp_path / "images of val.beton"
    write_stock(path, Photos(12, label_first=label_first), dict(fields[::-1] if label_first else fields))
    adopted(path)
    layout = read_layout(path)
    assert layout.fields == ("pixels", "a_name_of_16_let")
    assert layout.samples["f1"].tolist() == [at % 4 for at in range(12)]
    example = [sys.executable, ROOT / "examples/check_beton.py", path]
    shown = subprocess.run(example, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in shown] == [str(at % 4) for at in range(12)]
    with TrainLoader(path, px=100, batch=6, min_scale=1.0) as loader, loader.epoch(0) as batches:
        pictures = decoded_samples(path)
        for chosen, (images, labels) in zip(batches_in_order(loader, 0), batches, strict=True):
            assert labels.tolist() == [sample % 4 for sample in chosen]
            for sample, image in zip(chosen, images, strict=True):
                mean = np.asarray(pictures[sample], float).mean((0, 1))
                assert np.abs(image.float().mean((1, 2)).numpy() - mean).max() < 60


def test_other_fields_are_named_in_one_line(tmp_path: Path) -> None:
    from ffcv.fields import FloatField, IntField, RGBImageField

    class Weighted(Photos):
        def __getitem__(self, at: int) -> tuple[Any, ...]:
            return *super().__getitem__(at), 0.5

    fields = {"image": RGBImageField("raw", 64), "label": IntField(), "weight": FloatField()}
    status, out, err = run(write_stock(tmp_path / "train.beton", Weighted(4), fields))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "its fields are image (RGBImageField), label (IntField), weight (FloatField)" in err


def test_list_of_wnids_names_the_classes(copied: Path, tmp_path: Path) -> None:
    wnids, names = [f"n{1440764 + at:08d}" for at in range(5)], tmp_path / "LOC_synset_mapping.txt"
    adopted(copied)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):  # the last two as Windows saves them
        names.write_text("".join(f"{wnid} tench, Tinca tinca\n" for wnid in wnids), encoding)
        adopted(copied, f"--classes={names}")  # the file is not read again
        assert read_manifest(copied).classes == tuple(wnids)
    names.write_text("tench\r\ngreat white shark\r\n")
    status, out, _ = run(copied, f"--classes={names}")
    assert status == 1
    assert f"{copied}: sample 2 has a label beyond 2 classes\n" in out
    names.write_text("tench\n\nshark\n")
    err = run(copied, f"--classes={names}")[2]
    assert err == f"data_tools.adopt: error: classes: line 2 of {names} names no class\n"


def test_classes_of_several_files_are_those_of_all(tmp_path: Path) -> None:
    files = [write_stock(tmp_path / f"{split}.beton", Photos(images)) for split, images in (("train", 8), ("val", 3))]
    adopted(*files)
    assert [read_manifest(path).classes for path in files] == [("0", "1", "2", "3")] * 2


def test_interrupted_adoption_goes_on(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK_BYTES", 1 << 16)
    whole = tmp_path / "whole" / copied.name
    whole.parent.mkdir()
    whole.write_bytes(copied.read_bytes())
    adopted(whole)
    taken = []

    def interrupted(*arguments: Any, done: int, **options: Any) -> Any:
        for chunk in samples.check_samples(*arguments, done=done, **options):
            if len(taken) == 7:
                raise KeyboardInterrupt
            taken.append(chunk)
            yield chunk

    monkeypatch.setattr(adopt, "check_samples", interrupted)
    assert run(copied)[0] == 130
    assert not manifest_path(copied).exists()
    before, taken[:] = {int(sample) for chunk in taken for sample in chunk.samples}, [None] * 8
    adopted(copied)
    after = {int(sample) for chunk in taken[8:] for sample in chunk.samples}
    assert before
    assert after == set(range(40)) - before
    assert checksums_path(copied).read_bytes() == checksums_path(whole).read_bytes()
    assert read_manifest(copied) == read_manifest(whole)
    assert not list(tmp_path.glob("*.partial"))


def test_stop_before_the_last_link_goes_on(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", mock.Mock(side_effect=KeyboardInterrupt))
        assert run(copied, f"--data.out={tmp_path / 'out'}")[0] == 130
    adopted(copied, f"--data.out={tmp_path / 'out'}")


@pytest.mark.parametrize("broken", ["no checksums", "other checksums", "table", "size", "manifest"])
def test_file_that_is_not_as_it_was_adopted_is_adopted_again_as_the_error_says(copied: Path, broken: str) -> None:
    adopted(copied)
    {
        "no checksums": lambda: checksums_path(copied).unlink(),
        "other checksums": lambda: checksums_path(copied).write_bytes(bytes(8 * 40)),
        "table": lambda: overwrite(copied, SAMPLES_START + 16, b"\1"),
        "size": lambda: copied.write_bytes(write_stock(copied.with_name("b"), Photos(39)).read_bytes()),
        "manifest": lambda: manifest_path(copied).write_text("{"),
    }[broken]()
    again = f"remove {manifest_path(copied)} and run `python -m data_tools.adopt "
    for path in (copied, copied.with_name("train_500.beton")):
        status, out, err = run(path)
        assert (status, out) == (2, "")
        assert (again if broken != "manifest" else f"{copied}.json: not a manifest") in err
        assert (again + f"{path}`" if broken != "manifest" else "remove it, and run ") in next(verify.verify(path))
    manifest_path(copied).unlink()
    adopted(path)
    assert list(verify.verify(copied, full=True)) == []


def test_link_is_the_file_that_was_adopted(copied: Path) -> None:
    adopted(copied)
    link = copied.with_name("train_500.beton")
    adopted(copied, link)
    manifest_path(copied).unlink()
    adopted(link, copied)  # as `adopt_command` of an unadopted folder says
    assert manifest_path(link).readlink() == Path(manifest_path(copied).name)
    assert read_manifest(link).beton == copied.name
    (circle := copied.with_name("train.ffcv")).symlink_to(circle.name)
    assert run(circle)[2] == f"data_tools.adopt: error: {circle}: Too many levels of symbolic links\n"


def test_fault_before_an_interruption_is_found_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK_BYTES", 1 << 16)
    first = int(np.flatnonzero(read_layout(copied).samples["f0"]["mode"] == 0)[0])
    overwrite(copied, sample_place(copied, first)[0] + 20, bytes(400))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        for chunk in samples.check_samples(*arguments, **options):
            yield chunk
            if chunk.faults:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adopt, "check_samples", interrupted)
        assert run(copied)[0] == 130
    status, out, _ = run(copied)
    assert status == 1
    assert f"sample {first}: JPEG" in out


def test_another_folder_gets_links(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = sorted(mixed.parent.iterdir())
    adopted(mixed, f"--data.out={out}")
    assert sorted(mixed.parent.iterdir()) == before
    assert (out / "train_500.beton").resolve() == mixed
    for name in (mixed.name, "train_500.beton"):
        assert list(verify.verify(out / name, full=True)) == []


def test_name_that_is_taken_is_said_before_anything_is_read(copied: Path, betons: Path) -> None:
    taken = copied.with_name("train_500.beton")
    taken.write_bytes(b"another")
    status, _, err = run(copied)
    assert status == 2
    assert f"{taken}: already exists; remove it, or give another --data.out" in err
    assert "already has the manifest of its conversion" in run(betons / "val_160.beton")[2]
    taken.unlink()
    another = copied.with_name("train_500_1.00_90.ffcv")
    another.write_bytes(copied.read_bytes())
    status, out, err = run(copied, another)
    assert (status, out) == (2, "")
    assert f"{taken}: two of the files would get this name" in err


def test_split_is_asked_for_where_no_name_says_it(copied: Path) -> None:
    path = copied.rename(copied.with_name("imagenet.beton"))
    assert "give --split=train or --split=val" in run(path)[2]
    adopted(path, "--split=val")
    assert path.with_name("val_500.beton").resolve() == path


def test_training_says_the_command_that_adopts(copied: Path, tmp_path: Path) -> None:
    recipe = small_recipe(THEIRS[0], tmp_path / "recipe.yaml")
    status, _, err = attempt(recipe, tmp_path / "run", f"--data.dir={tmp_path}")
    assert status == 2
    assert f"run `python -m data_tools.adopt {copied}`" in err
    assert f"run `python -m data_tools.adopt {copied}`" in next(verify.verify(copied))
    found = {finding.level: str(finding) for finding in examine_betons(tmp_path)}
    assert f"python -m data_tools.adopt {copied}" in found["FAIL"]


@pytest.mark.parametrize(
    ("name", "sides", "limit"),
    [
        ("train_500_0.50_90.ffcv", [(64, 48)] * 3, (500, "longer")),
        ("train_400_0.10_90.ffcv", [(400, 300), (200, 400)], (400, "longer")),
        ("val_400_0.10_90.ffcv", [(500, 300), (200, 500)], (500, "longer")),  # not what it says
        ("train_160.beton", [(213, 160), (160, 240)], (160, "shorter")),
        ("train.beton", [(256, 341), (256, 300)], (256, "shorter")),
        ("train.beton", [(32, 32)] * 100, (32, "longer")),
        ("train_64.beton", [(80, 64), (64, 90), (90, 64)], (64, "shorter")),
        ("train.beton", [(500, 375), (640, 480), (333, 500)], (None, "longer")),
        ("train_0.5.beton", [(500, 375)], (None, "longer")),
    ],
)
def test_size_limit_is_as_named_or_as_many_images_have_it(
    name: str, sides: list[tuple[int, int]], limit: tuple[int | None, str]
) -> None:
    from types import SimpleNamespace

    image = np.zeros(len(sides), [("width", "<u2"), ("height", "<u2")])
    image["width"], image["height"] = zip(*sides, strict=True)
    assert adopt.size_limit(name, SimpleNamespace(samples={"f0": image})) == limit  # type: ignore[arg-type]
