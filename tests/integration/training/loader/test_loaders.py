"""Loaders on small betons: pixels against PIL and OpenCV, on any number of ranks; saved places, closing, errors."""

import copy
import gc
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch
from helpers.betons import batches_in_order, decoded_samples, epoch_by_sample
from helpers.images import make_sorted_tar, spec_for
from PIL import Image

from data_tools.beton.format import read_layout
from data_tools.convert.converter import convert
from training.config.datasets import read_datasets
from training.config.run_config import RunConfig
from training.config.schedule import Schedule
from training.engine.phase_loaders import val_loader
from training.loader.beton_reader import BetonReader, LoadError
from training.loader.crops import RandomCrops
from training.loader.loaders import TrainLoader, ValLoader

PX = 64


TRAIN: dict[str, Any] = {"px": PX, "batch": 8, "min_scale": 0.08, "seed": 1, "workers": 2}


def train(folder: Path, name: str = "train_160", **options: object) -> TrainLoader:
    return TrainLoader(folder / f"{name}.beton", **TRAIN | options)


def pixels_of(folder: Path, epoch: int, name: str = "train_160", **options: object) -> dict[int, bytes]:
    return epoch_by_sample(folder / f"{name}.beton", epoch, **TRAIN | options)


def val(folder: Path, name: str = "val_160", **options: object) -> ValLoader:
    defaults = {"px": PX, "batch": 5, "rectangular": False, "workers": 2}
    return ValLoader(folder / f"{name}.beton", **defaults | options)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


def test_batches_are_uint8_channels_last_and_labelled(betons: Path) -> None:
    labels = read_layout(betons / "train_160.beton").samples["f1"]
    with train(betons) as loader, loader.epoch(0) as batches:
        assert (loader.images, loader.batches) == (40, 5)
        for samples, (images, got) in zip(batches_in_order(loader, 0), batches, strict=True):
            assert images.shape == (8, 3, PX, PX) and images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert got.dtype == torch.int64 and got.tolist() == labels[samples].tolist()


@pytest.mark.parametrize("name", ["train_160", "train_full"])
def test_pixels_do_not_depend_on_workers_batch_or_ranks(betons: Path, name: str) -> None:
    expected = pixels_of(betons, 3, name, workers=1, batch=40)
    assert len(expected) == 40
    for options in ({"workers": 2, "batch": 10}, {"workers": 5, "batch": 4}, {"batch": 5, "ranks": 2}):
        assert pixels_of(betons, 3, name, **options) == expected
    assert pixels_of(betons, 4, name, batch=40) != expected


@pytest.mark.parametrize(("name", "px"), [("train_160", 128), ("train_320", 224), ("train_full", 64)])
@pytest.mark.parametrize("oracle", ["cv2", "pil"])
def test_pixels_match_cv2_and_pil_on_the_whole_picture(betons: Path, name: str, px: int, oracle: str) -> None:
    pictures = [np.asarray(image) for image in decoded_samples(betons / f"{name}.beton")]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    _, _, crops = RandomCrops(px=px, seed=1).of(np.arange(40), sizes[:, 1], sizes[:, 0])
    got = pixels_of(betons, 0, name, px=px)
    decibels = []
    for sample, crop in enumerate(crops):
        top, left, height, width, flip = crop.tolist()
        theirs = (by_cv2 if oracle == "cv2" else by_pil)(pictures[sample][top : top + height, left : left + width], px)
        ours = np.frombuffer(got[sample], np.uint8).reshape(3, px, px).transpose(1, 2, 0)
        decibels.append(psnr(ours[:, ::-1] if flip else ours, theirs))
    assert np.median(decibels) >= 40
    assert min(decibels) > 30


def by_cv2(picture: np.ndarray, px: int) -> np.ndarray:
    """Area along a side that shrinks, linear along one that grows."""
    for size in ((px, picture.shape[0]), (px, px)):
        shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[0]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return picture


def by_pil(picture: np.ndarray, px: int) -> np.ndarray:
    """What torchvision's transforms do with a PIL image: BILINEAR, which in PIL is antialiased."""
    return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.BILINEAR))


def test_flipped_crop_is_the_exact_mirror_image(betons: Path) -> None:
    """Of two epochs with the same crop, one flipped, one image is the other's mirror."""
    loader = train(betons, min_scale=1.0, batch=40)
    sizes = read_layout(betons / "train_160.beton").samples["f0"]
    widths, heights = sizes["width"].astype(np.int32), sizes["height"].astype(np.int32)
    by_crop: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for epoch in range(30):
        samples = batches_in_order(loader, epoch)[0]
        rule = RandomCrops(px=PX, min_scale=1.0, seed=1, epoch=epoch)
        _, _, crops = rule.of(samples, widths[samples], heights[samples])
        with loader.epoch(epoch) as batches:
            images = next(batches)[0].numpy()
        for sample, crop, image in zip(samples, crops, images, strict=True):
            top, left, height, width, flip = crop.tolist()
            by_crop.setdefault((int(sample), top, left, height, width), {})[flip] = image
    loader.close()
    pairs = [each for each in by_crop.values() if len(each) == 2]
    assert len(pairs) > 5
    for pair in pairs:
        np.testing.assert_array_equal(pair[0], pair[1][:, :, ::-1])


def test_raw_and_jpeg_samples_are_resized_alike(tmp_path: Path) -> None:
    """The same photographs stored as pixels and as JPEG at quality 100 give nearly the same batches."""
    tar = make_sorted_tar(tmp_path / "few.tar", classes=2, per_class=4, val_per_class=1)
    got = {}
    for mode, quality in (("raw", 90), ("jpg", 100)):
        convert(spec_for(tar, tmp_path / mode, caps=("160",), mode=mode, quality=quality))
        got[mode] = pixels_of(tmp_path / mode, 0)
        assert read_layout(tmp_path / mode / "train_160.beton").samples["f0"]["mode"].max() == (mode == "raw")
    pixels = [np.concatenate([np.frombuffer(got[mode][i], np.uint8) for i in range(8)]) for mode in ("raw", "jpg")]
    assert psnr(*pixels) > 35


@pytest.mark.parametrize("page_window", [None, 1])
def test_epoch_continues_at_any_batch_on_other_ranks(betons: Path, page_window: int | None) -> None:
    options = {"page_window": page_window}
    whole = pixels_of(betons, 2, **options)
    with train(betons, batch=8, **options) as loader, loader.epoch(2) as batches:
        seen = {image.numpy().tobytes() for _ in range(2) for image in next(batches)[0]}
    rest = set()
    for rank in (0, 1):
        with train(betons, batch=4, rank=rank, ranks=2, **options) as half:
            with half.epoch(2, start_batch=2) as batches:
                rest |= {image.numpy().tobytes() for images, _ in batches for image in images}
            with pytest.raises(ValueError, match="no batch 6 in an epoch of 5"):
                half.epoch(2, start_batch=6)
    assert len(seen) == 16 and len(rest) == 24
    assert seen | rest == set(whole.values())


@pytest.mark.parametrize("page_window", [None, 1])
def test_epoch_continues_at_any_image_in_batches_of_another_size(betons: Path, page_window: int | None) -> None:
    options = {"page_window": page_window}
    with train(betons, batch=8, **options) as loader:
        first, *_ = loader.epoch(2)
        expected = loader.samples(2).reshape(-1)[8:38].reshape(3, 5, 2)
    for rank in (0, 1):
        with train(betons, batch=5, rank=rank, ranks=2, **options) as other:
            np.testing.assert_array_equal(other.samples(2, range(8, 40)), expected[:, :, rank])
            rest = [images for images, _ in other.epoch(2, 1, range(8, 40))]
            assert [len(images) for images in rest] == [5, 5, 5]
            assert not {i.numpy().tobytes() for i in first[0]} & {i.numpy().tobytes() for i in torch.cat(rest)}
            assert not list(other.epoch(2, 4, range(38, 40)))


def test_100_early_breaks_do_not_leak(betons: Path) -> None:
    process = psutil.Process()
    with train(betons, px=128) as loader, val(betons) as validation:
        for warm in range(5):
            next(loader.epoch(warm))
        gc.collect()
        threads, memory = process.num_threads(), process.memory_info().rss
        for epoch in range(100):
            for _ in loader.epoch(epoch):
                break
            for _ in validation:
                break
        gc.collect()
        now = process.num_threads()
        assert now <= threads  # those of other tests may end meanwhile
        assert process.memory_info().rss - memory < 50e6
    assert process.num_threads() <= now - 4


def test_closed_loader_gives_no_more_batches(betons: Path) -> None:
    loader = train(betons)
    batches = loader.epoch(0)
    next(batches)
    loader.close()
    loader.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    with pytest.raises((RuntimeError, OSError)):
        loader.epoch(1)


def test_batch_is_not_overwritten_while_it_is_referenced(betons: Path) -> None:
    with train(betons) as loader, loader.epoch(0) as batches:
        held = [images for images, _ in batches]
    kept = [images.clone() for images in held]
    with train(betons) as loader, loader.epoch(0) as again:
        for images, copy, (fresh, _) in zip(held, kept, again, strict=True):
            assert torch.equal(images, copy) and torch.equal(images, fresh)


def test_two_loaders_at_once_do_not_mix(betons: Path) -> None:
    alone = set(pixels_of(betons, 0).values()), [images for images, _ in val(betons)]
    with train(betons) as loader, val(betons) as validation, loader.epoch(0) as batches:
        both = list(zip(batches, validation, strict=False))
    assert both
    for i, ((images, _), (validated, _)) in enumerate(both):
        assert {image.numpy().tobytes() for image in images} <= alone[0]
        assert torch.equal(validated, alone[1][i])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickle.dumps])
@pytest.mark.parametrize("make", [train, val])
def test_copied_or_pickled_loader_says_what_to_do_instead(
    betons: Path, make: Callable[[Path], Any], duplicate: Callable[[Any], Any]
) -> None:
    with make(betons) as loader:
        batches = iter(loader)
        for each in (loader, {"loader": loader}, batches, loader.decode, loader.beton):
            if isinstance(each, dict) and duplicate is copy.copy:
                continue  # which leaves what is in it alone
            with pytest.raises(
                LoadError, match=r"a \w+ holds an open file and threads, .*; make another with the same"
            ):
                duplicate(each)
        assert len(list(batches)) == len(loader)


@pytest.mark.parametrize("make", [train, val])
def test_two_iterations_of_one_loader_at_once_are_an_error(betons: Path, make: Callable[[Path], Any]) -> None:
    with make(betons) as loader:
        with pytest.raises(LoadError, match=r"_160\.beton: another iteration of this loader has begun"):
            list(zip(loader, loader, strict=False))
        outer = iter(loader)
        next(outer)
        inner = list(loader)
        assert len(inner) == len(loader) == len(list(loader))
        with pytest.raises(LoadError, match="use a loader for each"):
            next(outer)


def test_pages_are_fetched_once_and_before_their_samples(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    monkeypatch.setattr(BetonReader, "read_ahead", lambda _, pages: fetched.extend(pages))
    layout = read_layout(betons / "train_full.beton")
    pages = layout.samples["f0"]["data_ptr"] // np.uint64(layout.page_bytes)
    with train(betons, "train_full", page_window=1) as loader:
        assert sum(1 for _ in loader.epoch(0)) == 5
        first = set(pages[batches_in_order(loader, 0, pages=(pages, 1))[0]].tolist())
    assert sorted(fetched) == sorted(set(pages.tolist()))
    assert fetched[: len(first)] == sorted(first)


@pytest.mark.parametrize("rectangular", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_takes_every_image_once(betons: Path, ranks: int, rectangular: bool) -> None:
    labels, images = [], []
    for rank in range(ranks):
        before = len(labels)
        with val(betons, rectangular=rectangular, rank=rank, ranks=ranks) as loader:
            assert loader.images == 12
            for batch, got in loader:
                assert batch.shape[0] == len(got) <= 5 and min(batch.shape[2:]) == PX
                assert all(side % 8 == 0 for side in batch.shape[2:])
                labels += got.tolist()
                images += [image.numpy().tobytes() for image in batch]
            again = [len(got) for _, got in loader]
            assert len(again) == len(loader)
            assert sum(again) == len(labels) - before
    assert sorted(labels) == sorted(read_layout(betons / "val_160.beton").samples["f1"].tolist())
    assert len(set(images)) == 12


@pytest.mark.parametrize(("resize", "shorter"), [(None, 255), (232, 232), (320, 320)])
def test_square_validation_is_resize_and_centre_crop(betons: Path, resize: int | None, shorter: int) -> None:
    phase = {"epochs": [0, 1], "px": 224, "batch_per_gpu": 8, "data": 320, "val_batch": 12, "val_resize": resize}
    phase["lr"] = [{"epochs": [0, 1], "from": 0.1, "to": 0.1}]
    config = RunConfig(schedule=Schedule(phases=[phase]))
    datasets = read_datasets(betons, config.schedule.betons())
    with val_loader(config, datasets, config.schedule.phases[0], workers=2) as loader:
        images = next(iter(loader))[0].numpy().transpose(0, 2, 3, 1)
    ratios = []
    for ours, picture in zip(images, decoded_samples(betons / "val_320.beton"), strict=True):
        width, height = picture.size
        scale = shorter / min(height, width)
        left, top = (width - 224 / scale) / 2, (height - 224 / scale) / 2
        box = left, top, left + 224 / scale, top + 224 / scale
        kernel = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        ratios.append(psnr(ours, np.asarray(picture.resize((224, 224), kernel, box))))
    assert np.median(ratios) > 32  # the crop is rounded to whole pixels


def test_rectangle_follows_the_mean_ratio_of_its_batch(betons: Path) -> None:
    ratios = sorted(picture.width / picture.height for picture in decoded_samples(betons / "val_160.beton"))
    with val(betons, rectangular=True, batch=4) as loader:
        shapes = [tuple(images.shape[2:]) for images, _ in loader]
    for at, shape in enumerate(shapes):
        mean = np.mean(ratios[4 * at : 4 * at + 4])
        longer = int(PX * max(mean, 1 / mean)) // 8 * 8
        assert shape == ((PX, longer) if mean >= 1 else (longer, PX))
    assert len(set(shapes)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, r"train_160\.beton: sample \d+ has label 3, but the model has 3 classes"),
        ({"batch": 41}, r"41 on 1 GPU is 41, but .*train_160\.beton holds 40 images"),
        ({"batch": 21, "ranks": 2}, r"21 on 2 GPUs is 42, but .*train_160\.beton holds 40 images"),
        ({"rank": 2, "ranks": 2}, "rank 2 of 2"),
        ({"workers": 0}, "0 threads"),
        ({"min_scale": 0.0}, "share"),
        ({"min_scale": 1.5}, "share"),
        ({"resize": PX - 1}, f"a shorter side of {PX - 1} px holds no crop of {PX} px"),
        ({"resize": 0}, "a shorter side of 0 px"),
    ],
)
def test_impossible_options_are_refused(betons: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        val(betons, **options) if "resize" in options else train(betons, **options).epoch(0)


def test_batches_beyond_memory_are_refused_and_pinned_ones_count_as_torch_rounds_them(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 3 * 8 * PX * PX  # bytes: 96 KiB, for which torch pins 128
    assert batch == 96 << 10
    monkeypatch.setattr("data_tools.common.resources.available_memory", lambda: 7 * (128 << 10) - 1)
    train(betons).close()
    with pytest.raises(MemoryError, match="give a smaller batch"):
        train(betons, device=torch.device("cuda"))
    monkeypatch.setattr("data_tools.common.resources.available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="give a smaller batch"):
        val(betons)


def test_missing_beton_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_160\.beton: no beton here; run write_datasets\.py"):
        train(tmp_path)


ENDLESS_EPOCHS = """
import sys, torch
from pathlib import Path
from training.loader import TrainLoader
loader = TrainLoader(Path(sys.argv[1]), px=224, batch=20, min_scale=0.5, seed=0, workers=2, device=torch.device("cpu"))
for epoch in range(1_000_000):
    for images, labels in loader.epoch(epoch):
        print("batch", flush=True)
"""


def test_ctrl_c_ends_the_loop_with_one_traceback(betons: Path) -> None:
    command = [sys.executable, "-c", ENDLESS_EPOCHS, str(betons / "train_full.beton")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "batch\n"
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == -signal.SIGINT, errors  # what Python ends with after a KeyboardInterrupt
    assert errors.rstrip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1


def test_exit_in_the_middle_of_an_epoch_prints_nothing(betons: Path) -> None:
    script = ENDLESS_EPOCHS.replace('print("batch", flush=True)', "sys.exit(7)")
    done = subprocess.run(
        [sys.executable, "-c", script, str(betons / "train_full.beton")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, "")
