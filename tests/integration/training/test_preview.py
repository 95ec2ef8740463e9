"""The preview shows exactly the crops that the loaders give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.beton import contact_sheet
from data_tools.common.errors import UserError
from training import preview
from training.config.datasets import read_datasets
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase, Ramp, Schedule
from training.config.train_config import Train
from training.loader.loaders import TrainLoader, ValLoader

RATES = (Ramp(epochs=(0, 3), first=0.1, last=0.0),)
SCHEDULE = Schedule(
    phases=(
        Phase(epochs=(0, 2), px=112, batch_per_gpu=8, data="160", val_batch=5, lr=RATES),
        Phase(epochs=(2, 3), px=160, batch_per_gpu=8, data="320", val_batch=4, min_scale=0.5, rectangular_val=True),
    ),
)
OPTIONS = RunConfig(schedule=SCHEDULE)
RECIPE = json.dumps({"schedule": as_mapping(OPTIONS)["schedule"]})


@pytest.fixture(scope="module")
def picture(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("preview")
    (folder / "recipe.yaml").write_text(RECIPE)
    out = folder / "shown" / "preview.png"
    more = [f"--data.dir={betons}", "--run.seed=3", "--out", str(out)]
    assert preview.main(["--config-file", str(folder / "recipe.yaml"), *more]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["preview.png"]
    return as_numbers(np.asarray(Image.open(out)))


def as_numbers(pixels: np.ndarray) -> np.ndarray:
    """One number for each pixel."""
    return pixels @ np.array([1 << 16, 1 << 8, 1])


def found_in(picture: np.ndarray, images: torch.Tensor) -> list[bool]:
    """Whether each image stands somewhere in the picture."""
    found = []
    for pixels in as_numbers(images.permute(0, 2, 3, 1).numpy()):
        height, width = pixels.shape
        corners = picture[: picture.shape[0] - height + 1, : picture.shape[1] - width + 1]
        places = np.argwhere(corners == pixels[0, 0])
        found.append(any(np.array_equal(picture[y : y + height, x : x + width], pixels) for y, x in places))
    return found


def test_training_crops_equal_those_of_a_run(picture: np.ndarray, betons: Path) -> None:
    for phase, many in zip(SCHEDULE.phases, (30, 22), strict=True):
        path = betons / f"train_{phase.data}.beton"
        with TrainLoader(path, px=phase.px, batch=many, min_scale=phase.min_scale, seed=3) as loader:
            batches = {epoch: next(loader.epoch(epoch))[0] for epoch in (phase.start, phase.start + 1)}
        assert all(found_in(picture, batches[phase.start]))
        assert not any(found_in(picture, batches[phase.start + 1]))


def test_validation_crops_equal_those_of_a_run(picture: np.ndarray, betons: Path) -> None:
    for phase in SCHEDULE.phases:
        path = betons / f"val_{phase.data}.beton"
        for rectangular in (False, True):
            with ValLoader(path, px=phase.px, batch=phase.val_batch, rectangular=rectangular) as loader:
                seen = [found_in(picture, images) for images, _ in loader]
            assert any(map(any, seen)) == (not rectangular or phase.rectangular_val)
            if any(map(any, seen)):
                assert all(map(any, seen))  # some of every batch


def test_labels_give_the_shares_of_mixed_images(betons: Path) -> None:
    options = RunConfig(schedule=SCHEDULE, train=Train(mixup=0.9))
    found = read_datasets(betons, SCHEDULE.betons())
    phase = SCHEDULE.phases[0]
    mixed = preview.training_crops(options, found, phase, 8)
    plain = preview.training_crops(OPTIONS, found, phase, 8)
    share = max(float(crop.label.split("%")[0]) / 100 for crop in mixed if "+" in crop.label)
    for at, (crop, own) in enumerate(zip(mixed, plain, strict=True)):
        # torchvision's MixUp mixes each image with the one before it.
        first, second = own.pixels.astype(float), plain[at - 1].pixels.astype(float)
        apart = [np.abs(crop.pixels - (a * first + (1 - a) * second)).mean() for a in (share, 1 - share)]
        assert min(apart) < 2
        assert own.label in crop.label


def test_long_label_is_cut_at_the_width_of_its_crop(tmp_path: Path) -> None:
    labels, px = ("hat", "a class with quite a long name", "hat"), 80
    crops = [contact_sheet.Crop(np.full((8, px, 3), 255, np.uint8), label) for label in labels]
    contact_sheet.save([contact_sheet.Row("", crops)], 1, tmp_path / "sheet.png")
    ink = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).min(0) < 200
    lefts = [contact_sheet.MARGIN + number * (px + contact_sheet.GAP) for number in range(3)]
    inks = [ink[left : left + px] for left in lefts]
    assert sum(map(sum, inks)) == sum(ink)  # none beside the crops
    assert np.array_equal(inks[0], inks[2])
    assert inks[0].any() and np.flatnonzero(inks[1])[-1] > px * 0.8


def test_rows_hold_as_many_crops_as_fit() -> None:
    for width in (112, 224, 500, 1936):
        crops = [contact_sheet.Crop(np.zeros((8, width, 3), np.uint8), "")] * contact_sheet.per_row(width)
        assert contact_sheet.fit(crops, 1) and not contact_sheet.fit([*crops, crops[0]], 1)


def test_crop_that_is_wider_than_the_sheet_is_shown_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 3000, 3), np.uint8)
    contact_sheet.save([contact_sheet.Row("", [contact_sheet.Crop(pixels, "")])], 1, tmp_path / "x.png")
    shown = as_numbers(np.asarray(Image.open(tmp_path / "x.png")))
    assert any(np.array_equal(row[left : left + 3000], as_numbers(pixels)[0]) for row in shown for left in (31, 32, 33))


def test_picture_that_is_too_large_for_its_format_is_one_line(tmp_path: Path) -> None:
    row = contact_sheet.Row("", [contact_sheet.Crop(np.zeros((16_400, 8, 3), np.uint8), "")])
    with pytest.raises(UserError, match=r"x\.webp: .*16383 pixels; give a \.png"):
        contact_sheet.save([row], 1, tmp_path / "x.webp")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data.dir=/nowhere"], "no beton here"),
        (["--out", "x.unknown"], "unknown file extension '.unknown'; give a .png"),
        (["--out", "x.psd"], "unknown file extension '.psd'; give a .png"),  # which PIL only reads
    ],
)
def test_wrong_options_are_refused(
    betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    given = ["--config-file", str(tmp_path / "recipe.yaml"), f"--data.dir={betons}"]
    assert preview.main([*given, *arguments]) == 2
    assert reason in capsys.readouterr().err
