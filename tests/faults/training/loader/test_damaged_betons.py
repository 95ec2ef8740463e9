"""Damaged betons: every kind ends in an error that names the file and the sample, before its batch is handed out."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.beton.format import SAMPLE, SAMPLES_START, beton_digest, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path, read_manifest, write_manifest
from training.loader.loaders import LoadError, TrainLoader, ValLoader

NAME = "train_160.beton"
VICTIM = 17


@pytest.fixture
def copy(betons: Path, tmp_path: Path) -> Path:
    """A beton of its own, manifest and checksums beside it."""
    for name in (NAME, manifest_path(Path(NAME)).name, checksums_path(Path(NAME)).name):
        shutil.copy(betons / name, tmp_path / name)
    return tmp_path / NAME


def loader(path: Path, **options: object) -> TrainLoader:
    defaults = {"px": 64, "batch": 4, "min_scale": 0.3, "seed": 0, "workers": 2, "device": torch.device("cpu")}
    defaults["checksums"] = False  # or most damage would not get as far as the decoder
    return TrainLoader(path, **defaults | options)


def place(path: Path, sample: int) -> tuple[int, int]:
    """Offset and size of a sample's bytes."""
    found = read_layout(path)
    return int(found.samples["f0"]["data_ptr"][sample]), int(found.sizes()[sample])


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def patch_sample(path: Path, sample: int, **fields: int) -> None:
    """Change the metadata of a sample."""
    entry = read_layout(path).samples[sample : sample + 1].copy()
    for name, value in fields.items():
        if name == "label":
            entry["f1"] = value
        else:
            entry["f0"][name] = value
    patch(path, SAMPLES_START + sample * SAMPLE.itemsize, entry.tobytes())


def patch_alloc(path: Path, sample: int, **fields: int) -> None:
    found = read_layout(path)
    entries = found.alloc.copy()
    row = int(np.flatnonzero(entries["sample_id"] == sample)[0])
    for name, value in fields.items():
        entries[name][row] = value
    patch(path, int(found.header["alloc_table_ptr"]), entries.tobytes())


def reseal(path: Path) -> None:
    """Make the manifest agree with changed tables, so that what comes after that check is tested too."""
    found, head = read_layout(path), SAMPLES_START
    content = path.read_bytes()[: head + found.samples.nbytes]
    digest = beton_digest(content, found.alloc.tobytes(), checksums_path(path).read_bytes())
    write_manifest(dataclasses.replace(read_manifest(path), digest=digest), manifest_path(path))


def zeroed(path: Path) -> None:
    at, size = place(path, VICTIM)
    patch(path, at, bytes(size))


def cut_jpeg(path: Path) -> None:
    """The second half of a sample is the end of another JPEG."""
    at, size = place(path, VICTIM)
    patch(path, at + size // 2, bytes(size - size // 2))


def wrong_width(path: Path) -> None:
    patch_sample(path, VICTIM, width=int(read_layout(path).samples["f0"]["width"][VICTIM]) - 8)


def wrong_height(path: Path) -> None:
    patch_sample(path, VICTIM, height=int(read_layout(path).samples["f0"]["height"][VICTIM]) + 1)


def swapped(path: Path) -> None:
    """Metadata and alloc table agree on another sample's place: only sizes or checksums can tell."""
    places = {sample: place(path, sample) for sample in (VICTIM, VICTIM + 1)}
    for sample, other in ((VICTIM, VICTIM + 1), (VICTIM + 1, VICTIM)):
        patch_sample(path, sample, data_ptr=places[other][0])
        patch_alloc(path, sample, ptr=places[other][0], size=places[other][1])


def one_bit(path: Path) -> None:
    at, size = place(path, VICTIM)
    with path.open("r+b") as file:
        file.seek(at + size // 3)
        byte = file.read(1)[0]
    patch(path, at + size // 3, bytes([byte ^ 4]))


def assert_stops_before(batches: TrainLoader, sample: int, path: Path) -> None:
    """Every batch before the sample's comes, and then the error."""
    order = batches._order(0)
    due = int(np.flatnonzero((order == sample).any(axis=1))[0])
    got = 0
    with batches, pytest.raises(LoadError) as caught, batches.epoch(0) as epoch:
        for _ in epoch:
            got += 1
    assert got == due
    assert str(path) in str(caught.value) and f"sample {sample} " in str(caught.value)


@pytest.mark.parametrize("damage", [zeroed, cut_jpeg, wrong_width, wrong_height])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_sample_that_does_not_decode(copy: Path, damage: Callable[[Path], None], workers: int) -> None:
    damage(copy)
    reseal(copy)
    assert_stops_before(loader(copy, workers=workers), VICTIM, copy)
    with loader(copy) as again, pytest.raises(LoadError):  # every time, and the loader survives
        for epoch in range(3):
            with pytest.raises(LoadError):
                list(again.epoch(epoch))
        list(again.epoch(3))


@pytest.mark.parametrize("damage", [zeroed, one_bit, swapped])
def test_checksums_tell_what_decodes(copy: Path, damage: Callable[[Path], None]) -> None:
    with loader(copy, checksums=True) as sound:
        assert len(list(sound.epoch(0))) == 10
    damage(copy)
    reseal(copy)
    broken = loader(copy, checksums=True)
    order = broken._order(0).ravel()
    first = next(
        int(sample) for sample in order if sample in ((VICTIM, VICTIM + 1) if damage is swapped else (VICTIM,))
    )
    assert_stops_before(broken, first, copy)


def to_another(path: Path) -> None:
    patch_sample(path, VICTIM, data_ptr=place(path, 3)[0])


def to_another_in_both_tables(path: Path) -> None:
    at, size = place(path, 3)
    patch_sample(path, VICTIM, data_ptr=at)
    patch_alloc(path, VICTIM, ptr=at, size=size)


def past_the_end(path: Path) -> None:
    patch_sample(path, VICTIM, data_ptr=path.stat().st_size + 4096)
    patch_alloc(path, VICTIM, ptr=path.stat().st_size + 4096)


def near_2_64(path: Path) -> None:
    patch_sample(path, VICTIM, data_ptr=2**64 - 8)
    patch_alloc(path, VICTIM, ptr=2**64 - 8)


def huge(path: Path) -> None:
    patch_alloc(path, VICTIM, size=1 << 62)


def no_label(path: Path) -> None:
    patch_sample(path, VICTIM, label=4)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [wrong_width, wrong_height, swapped, to_another])
def test_changed_tables_are_refused_on_opening(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=r"train_160\.beton: .*run write_datasets\.py again"):
        loader(copy)


@pytest.mark.parametrize(
    "damage", [to_another, to_another_in_both_tables, past_the_end, near_2_64, huge, no_label, cut, half, empty]
)
@pytest.mark.parametrize(
    "make",
    [loader, lambda path: ValLoader(path, px=64, batch=4, rectangular=True, workers=1, device=torch.device("cpu"))],
    ids=["train", "val"],
)
def test_what_the_tables_show_is_refused_on_opening(
    copy: Path, damage: Callable[[Path], None], make: Callable[[Path], object]
) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=r"train_160\.beton: .*run write_datasets\.py again"):
        make(copy)


def test_a_file_that_shrinks_in_use_is_an_error_and_no_signal(copy: Path) -> None:
    at = place(copy, VICTIM)[0]
    with loader(copy) as batches:
        epoch = batches.epoch(0)
        next(epoch)
        os.truncate(copy, at)
        with pytest.raises(LoadError, match="the file ends before the sample does"):
            list(epoch)
        with pytest.raises(
            LoadError, match=r"changed in use \([\d,]+ bytes when it was opened, now [\d,]+\); put the file back"
        ):
            batches.epoch(1)


def test_a_file_replaced_in_use_is_not_read(copy: Path, betons: Path) -> None:
    """A conversion renames the new file into place: the epoch at hand is of the open one, the next does not begin."""
    with loader(copy) as batches:
        expected = [images.clone() for images, _ in batches.epoch(0)]
        epoch = batches.epoch(0)
        shutil.copy(betons / "train_320.beton", copy.with_suffix(".new"))
        copy.with_suffix(".new").replace(copy)
        for images, (again, _) in zip(expected, epoch, strict=True):
            assert torch.equal(images, again)
        with pytest.raises(LoadError, match="changed in use"):
            batches.epoch(1)
    with pytest.raises(ValueError, match="not the file that its manifest describes"):
        loader(copy)


def test_a_file_written_to_or_removed_in_use_is_found_before_the_next_epoch(copy: Path) -> None:
    with loader(copy) as batches:
        list(batches.epoch(0))
        with copy.open("r+b") as file:  # as long as before
            file.seek(place(copy, VICTIM)[0])
            file.write(bytes(100))
        with pytest.raises(LoadError, match="changed in use"):
            batches.epoch(1)
        copy.unlink()
        with pytest.raises(LoadError, match=r"train_160\.beton: gone while in use \(No such file or directory\)"):
            batches.epoch(1)


def test_validation_stops_too(copy: Path) -> None:
    zeroed(copy)
    options = {"px": 64, "batch": 4, "workers": 2, "device": torch.device("cpu")}
    for rectangular in (False, True):
        with (
            ValLoader(copy, rectangular=rectangular, **options) as broken,
            pytest.raises(LoadError, match="sample 17 "),
        ):
            list(broken)


def test_missing_or_foreign_checksums_are_refused(copy: Path) -> None:
    sidecar = checksums_path(copy)
    sidecar.write_bytes(sidecar.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"xxh64: .*run write_datasets\.py again"):
        loader(copy, checksums=True)
    sidecar.unlink()
    with pytest.raises(FileNotFoundError, match="no checksums beside the beton"):
        loader(copy, checksums=True)


def test_too_few_file_descriptors_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (10, 10))
    with pytest.raises(OSError, match="ulimit -n"):
        loader(copy)
