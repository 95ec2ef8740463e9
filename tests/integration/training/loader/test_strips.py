"""A picture of extreme shape in the validation set: rectangles, memory and time stay bounded, others are untouched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import jpeg, photo, sorted_files, spec_for, write_tar
from helpers.recipes import TINY_PHASES, write_recipe
from helpers.training_runs import attempt, evaluated

from data_tools.convert.converter import convert
from training.loader.crops import rectangle
from training.loader.loaders import ValLoader
from training.runlog.epoch_table import read_epochs

PX = 48


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons of 16 training and 73 validation pictures, one of which is 40,000 x 2 px and one 2 x 3,000."""
    folder = tmp_path_factory.mktemp("strips")
    files = sorted_files(4, 4, 1, lambda at: jpeg(photo(at, 80, 60)))
    shapes = [(40_000, 2), (2, 3000), *[(80, 60), (60, 80), (75, 75)] * 23]
    for number, shape in enumerate(shapes[:69]):
        files[f"raw-data/validation/n01440764/{number}_more.JPEG"] = jpeg(photo(number, *shape))
    convert(spec_for(write_tar(folder / "pictures.tar", files), folder, caps=("160", "full")))
    return folder


def val(folder: Path, **options: Any) -> ValLoader:
    return ValLoader(folder / "val_full.beton", **{"px": PX, "batch": 73, "rectangular": True, "workers": 2} | options)


@pytest.mark.parametrize(("batch", "longest"), [(1, 16), (4, 16), (72, 16), (73, 2)])  # of 72, the strip is left
def test_no_rectangle_is_longer_than_16_times_its_shorter_side(strips: Path, batch: int, longest: int) -> None:
    with val(strips, batch=batch) as loader:
        shapes = [images.shape for images, _ in loader]
        assert (loader.images, loader.strips) == (73, 2)
    assert sum(shape[0] for shape in shapes) == 73
    for _, _, height, width in shapes:
        assert min(height, width) == PX and max(height, width) <= longest * PX
    assert longest < 16 or max(width for *_, width in shapes) == 16 * PX


def test_a_smaller_batch_takes_less_memory(strips: Path) -> None:
    loaders = [val(strips, batch=batch) for batch in (73, 72, 40, 20, 8, 2, 1)]
    pixels = [loader.deal() for loader in loaders]
    assert pixels == sorted(pixels, reverse=True)
    assert pixels[0] < 3 * 73 * PX * PX and pixels[-1] == 16 * PX * PX
    for loader in loaders:
        loader.close()


def test_other_rectangles_are_what_they_were() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ratios = 16 ** rng.uniform(-1, 1, rng.integers(1, 200))
        mean = float(np.mean(ratios))
        longer = max(288, int(288 * max(mean, 1 / mean)) // 8 * 8)
        assert rectangle(ratios, 288) == ((288, longer) if mean >= 1 else (longer, 288))


def recipe_of(folder: Path, tmp_path: Path, **last: Any) -> Path:
    phases = [{"batch_per_gpu": 4, "val_batch": 73}, {"batch_per_gpu": 4, "val_batch": 73} | last]
    merged = [given | changed for given, changed in zip(TINY_PHASES, phases, strict=True)]
    return write_recipe(tmp_path / "recipe.yaml", merged, data={"dir": str(folder)})


def test_a_run_passes_its_rectangular_phase_and_names_the_strips(strips: Path, tmp_path: Path) -> None:
    recipe = recipe_of(strips, tmp_path)
    status, _, err = attempt(recipe, tmp_path / "run")
    assert status == 0, err
    line = "note: a rectangle is at most 16 times its shorter side; cropped to that: 2 images of "
    assert err.count(f"{line}{strips / 'val_full.beton'}") == 1 and err.count(line) == 1
    assert [row.epoch for row in read_epochs(tmp_path / "run")] == [1, 2, 3]
    assert "73 images, 48 px rectangles" in evaluated(recipe, tmp_path / "run" / "last.pt")


def test_the_largest_batch_of_a_late_phase_is_reckoned_before_the_first_epoch(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with val(strips) as loader:
        needed = 7 * 3 * loader.deal()
    monkeypatch.setattr("data_tools.common.resources.available_memory", lambda: needed - 1)
    status, out, err = attempt(recipe_of(strips, tmp_path), tmp_path / "run")
    assert (status, out) == (2, "")
    assert err.startswith("train_imagenet.py: error: schedule.phases.val_batch: epoch 3: ")
    assert "val_full.beton: the batches in flight take" in err and "give a smaller val_batch" in err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
    status, _, err = attempt(recipe_of(strips, tmp_path, val_batch=20), tmp_path / "run")
    assert status == 0, err


def test_an_augmentation_that_does_not_fit_a_late_phase_is_refused_before_the_first_epoch(
    strips: Path, tmp_path: Path
) -> None:
    entry = {"torchvision.transforms.v2.RandomCrop": {"size": 32}}  # which is the size of the first phase
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        [phase | {"batch_per_gpu": 4} for phase in TINY_PHASES],
        data={"dir": str(strips), "augment": [entry]},
    )
    status, out, err = attempt(recipe, tmp_path / "run")
    assert (status, out) == (2, "")
    assert "data.augment: RandomCrop does not turn one uint8 image into another of the same shape, here 48 px" in err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
