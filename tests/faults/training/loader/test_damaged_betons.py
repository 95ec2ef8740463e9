"""Every kind of damage to a beton is an error that names the file and the sample, instead of a batch with it."""

import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.betons import batches_in_order, copy_beton, overwrite, sample_place

from data_tools.beton.format import SAMPLE, SAMPLES_START, beton_digest, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path, read_manifest, write_manifest
from data_tools.common.errors import UserError
from training.loader.beton_reader import LoadError
from training.loader.loaders import TrainLoader, ValLoader

DAMAGED = 17


@pytest.fixture
def copy(betons: Path, tmp_path: Path) -> Path:
    """A beton with its manifest and checksums, to be damaged."""
    return copy_beton(betons / "train_160.beton", tmp_path)


def loader(path: Path, **options: object) -> TrainLoader:
    defaults = {"px": 64, "batch": 4, "min_scale": 0.3, "seed": 0, "workers": 2, "device": torch.device("cpu")}
    defaults["checksums"] = False  # so that damage gets as far as the decoder
    return TrainLoader(path, **defaults | options)


def patch_sample(path: Path, sample: int, **fields: int) -> None:
    """Change the metadata of a sample."""
    entry = read_layout(path).samples[sample : sample + 1].copy()
    for name, value in fields.items():
        if name == "label":
            entry["f1"] = value
        else:
            entry["f0"][name] = value
    overwrite(path, SAMPLES_START + sample * SAMPLE.itemsize, entry.tobytes())


def patch_alloc(path: Path, sample: int, **fields: int) -> None:
    found = read_layout(path)
    entries = found.alloc.copy()
    row = int(np.flatnonzero(entries["sample_id"] == sample)[0])
    for name, value in fields.items():
        entries[name][row] = value
    overwrite(path, int(found.header["alloc_table_ptr"]), entries.tobytes())


def update_digest(path: Path) -> None:
    """Make the manifest agree with changed tables, so that the checks after that one are tested too."""
    found, head = read_layout(path), SAMPLES_START
    content = path.read_bytes()[: head + found.samples.nbytes]
    digest = beton_digest(content, found.alloc.tobytes(), checksums_path(path).read_bytes())
    write_manifest(dataclasses.replace(read_manifest(path), digest=digest), manifest_path(path))


def zeros(path: Path) -> None:
    at, size = sample_place(path, DAMAGED)
    overwrite(path, at, bytes(size))


def cut_jpeg(path: Path) -> None:
    """The second half of a sample is the end of another JPEG."""
    at, size = sample_place(path, DAMAGED)
    overwrite(path, at + size // 2, bytes(size - size // 2))


def wrong_width(path: Path) -> None:
    patch_sample(path, DAMAGED, width=int(read_layout(path).samples["f0"]["width"][DAMAGED]) - 8)


def wrong_height(path: Path) -> None:
    patch_sample(path, DAMAGED, height=int(read_layout(path).samples["f0"]["height"][DAMAGED]) + 1)


def swapped(path: Path) -> None:
    """Metadata and alloc table agree on another sample's place: only sizes or checksums can tell."""
    places = {sample: sample_place(path, sample) for sample in (DAMAGED, DAMAGED + 1)}
    for sample, other in ((DAMAGED, DAMAGED + 1), (DAMAGED + 1, DAMAGED)):
        patch_sample(path, sample, data_ptr=places[other][0])
        patch_alloc(path, sample, ptr=places[other][0], size=places[other][1])


def one_bit(path: Path) -> None:
    at, size = sample_place(path, DAMAGED)
    overwrite(path, at + size // 3, bytes([path.read_bytes()[at + size // 3] ^ 4]))


def assert_stops_before(batches: TrainLoader, sample: int, path: Path) -> None:
    """Every batch before the sample's comes, and then the error."""
    before = int(np.flatnonzero((batches_in_order(batches, 0) == sample).any(axis=1))[0])
    got = 0
    with batches, pytest.raises(LoadError) as caught, batches.epoch(0) as epoch:
        for _ in epoch:
            got += 1
    assert got == before
    assert str(path) in str(caught.value) and f"sample {sample} " in str(caught.value)


@pytest.mark.parametrize("damage", [zeros, cut_jpeg, wrong_width, wrong_height])
@pytest.mark.parametrize("workers", [1, 3])
def test_undecodable_sample_stops_before_its_batch(copy: Path, damage: Callable[[Path], None], workers: int) -> None:
    damage(copy)
    update_digest(copy)
    assert_stops_before(loader(copy, workers=workers), DAMAGED, copy)
    with loader(copy) as again, pytest.raises(LoadError):  # every time, and then the loader still works
        for epoch in range(3):
            with pytest.raises(LoadError):
                list(again.epoch(epoch))
        list(again.epoch(3))


@pytest.mark.parametrize("damage", [zeros, one_bit, swapped])
def test_checksums_find_damage_that_decodes(copy: Path, damage: Callable[[Path], None]) -> None:
    with loader(copy, checksums=True) as sound:
        assert len(list(sound.epoch(0))) == 10
    damage(copy)
    update_digest(copy)
    broken = loader(copy, checksums=True)
    order = batches_in_order(broken, 0).ravel()
    first = next(
        int(sample) for sample in order if sample in ((DAMAGED, DAMAGED + 1) if damage is swapped else (DAMAGED,))
    )
    assert_stops_before(broken, first, copy)


def same_place_as_another(path: Path) -> None:
    patch_sample(path, DAMAGED, data_ptr=sample_place(path, 3)[0])


def same_place_in_both_tables(path: Path) -> None:
    at, size = sample_place(path, 3)
    patch_sample(path, DAMAGED, data_ptr=at)
    patch_alloc(path, DAMAGED, ptr=at, size=size)


def past_the_end(path: Path) -> None:
    patch_sample(path, DAMAGED, data_ptr=path.stat().st_size + 4096)
    patch_alloc(path, DAMAGED, ptr=path.stat().st_size + 4096)


def near_2_64(path: Path) -> None:
    patch_sample(path, DAMAGED, data_ptr=2**64 - 8)
    patch_alloc(path, DAMAGED, ptr=2**64 - 8)


def huge(path: Path) -> None:
    patch_alloc(path, DAMAGED, size=1 << 62)


def unknown_label(path: Path) -> None:
    patch_sample(path, DAMAGED, label=4)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    "damage",
    [
        *(wrong_width, wrong_height, swapped, same_place_as_another, same_place_in_both_tables, past_the_end),
        *(near_2_64, huge, unknown_label, cut, half, empty),
    ],
)
@pytest.mark.parametrize(
    "make",
    [loader, lambda path: ValLoader(path, px=64, batch=4, rectangular=True, workers=1, device=torch.device("cpu"))],
    ids=["train", "val"],
)
def test_impossible_tables_are_refused_on_opening(
    copy: Path, damage: Callable[[Path], None], make: Callable[[Path], object]
) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=r"train_160\.beton: .*run write_datasets\.py again"):
        make(copy)


def test_file_cut_in_use_is_an_error_and_not_a_signal(copy: Path) -> None:
    at = sample_place(copy, DAMAGED)[0]
    with loader(copy) as batches:
        epoch = batches.epoch(0)
        next(epoch)
        os.truncate(copy, at)
        with pytest.raises(LoadError, match="the file ends before the sample does"):
            list(epoch)
        with pytest.raises(
            LoadError,
            match=r"changed while in use \([\d,]+ bytes when it was opened, now [\d,]+ bytes; .*; put back the file",
        ):
            batches.epoch(1)


def test_file_replaced_in_use_stops_the_next_epoch(copy: Path, betons: Path) -> None:
    """A conversion renames the new file into place; the current epoch is still read from the open one."""
    with loader(copy) as batches:
        expected = [images.clone() for images, _ in batches.epoch(0)]
        epoch = batches.epoch(0)
        shutil.copy(betons / "train_320.beton", copy.with_suffix(".new"))
        copy.with_suffix(".new").replace(copy)
        for images, (again, _) in zip(expected, epoch, strict=True):
            assert torch.equal(images, again)
        with pytest.raises(LoadError, match=r"changed while in use \(inode \d+ when it was opened, now inode \d+; "):
            batches.epoch(1)
    with pytest.raises(ValueError, match="not the file that its manifest describes"):
        loader(copy)


def test_file_changed_or_removed_in_use_stops_the_next_epoch(copy: Path) -> None:
    with loader(copy) as batches:
        list(batches.epoch(0))
        before = copy.stat().st_mtime_ns
        overwrite(copy, sample_place(copy, DAMAGED)[0], bytes(100))  # as long as before
        os.utime(copy, ns=(before, before + 1))
        time = r"modified at [\d-]+ [\d:]+\.\d{9}"
        with pytest.raises(LoadError, match=rf"in use \({time} when it was opened, now {time}\)") as error:
            batches.epoch(1)
        then, now = re.findall(time, str(error.value))
        assert then != now
        copy.unlink()
        with pytest.raises(LoadError, match=r"train_160\.beton: gone while in use \(No such file or directory\)"):
            batches.epoch(1)


def test_relative_path_survives_another_working_directory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    with loader(Path(copy.name)) as batches:
        monkeypatch.chdir("/")
        assert list(batches.epoch(0))


def test_damaged_sample_stops_validation(copy: Path) -> None:
    zeros(copy)
    options = {"px": 64, "batch": 4, "workers": 2, "device": torch.device("cpu")}
    for rectangular in (False, True):
        with (
            ValLoader(copy, rectangular=rectangular, **options) as broken,
            pytest.raises(LoadError, match=f"sample {DAMAGED} "),
        ):
            list(broken)


def test_missing_or_other_checksums_are_refused(copy: Path) -> None:
    sidecar = checksums_path(copy)
    sidecar.write_bytes(sidecar.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"xxh64: .*run write_datasets\.py again"):
        loader(copy, checksums=True)
    sidecar.unlink()
    with pytest.raises(FileNotFoundError, match=r"no checksums beside the beton; .*or remove it and run"):
        loader(copy, checksums=True)


def test_too_many_open_files_are_said_to_be(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("training.loader.beton_reader.os.open", full)
    with pytest.raises(UserError, match=rf"{copy}: too many open files.*ulimit -n"):
        loader(copy)
