"""Whole conversions: the command line, every kind of source, and what the betons hold for every option."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.betons import file_digests, stored_samples
from helpers.images import (
    jpeg,
    oddities,
    photo,
    sorted_files,
    spec_for,
    write_folder,
    write_tar,
)
from PIL import Image

from data_tools import verify
from data_tools.beton import classes
from data_tools.beton.format import PAGE_BYTES, RAW, read_layout
from data_tools.beton.manifest import read_manifest
from data_tools.convert.converter import convert
from data_tools.convert.plan import ConversionError
from data_tools.native import codec

DATA = "*.beton", "*.xxh64"  # without manifests, which name their sources


def run(*arguments: str, cwd: Path = Path("/"), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "write_datasets.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, cwd=cwd)


def test_modules_in_the_current_folder_are_not_imported(tmp_path: Path, sorted_tar: Path) -> None:
    for name in ("random.py", "json.py", "numpy/__init__.py", "data_tools/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit('{name} was imported')")
    path = os.pathsep.join(each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each)
    options = f"--data.source={sorted_tar}", f"--data.out={tmp_path / 'out'}", "--data.caps=160"
    done = run(*options, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


def assert_no_faults(out: Path) -> None:
    for path in out.glob("*.beton"):
        assert list(verify.verify(path, full=True)) == []


def test_command_line_converts_and_skips_what_is_there(tmp_path: Path, sorted_tar: Path) -> None:
    out = tmp_path / "out"
    done = run(f"--data.source={sorted_tar}", f"--data.out={out}", "--data.caps=160,full", WRITE_QUALITY="5")
    assert done.returncode == 0, done.stderr
    assert "40 train, 12 val images of 4 classes" in done.stderr
    assert "estimate" in done.stderr
    for name in ("train_160", "train_full", "val_160", "val_full"):
        assert f"{name}.beton" in done.stdout
    assert f"{out} is complete" in done.stdout
    assert read_manifest(out / "train_160.beton").quality == 90
    assert_no_faults(out)
    again = run(f"--data.source={sorted_tar}", f"--data.out={out}", "--data.caps=160,full")
    assert again.returncode == 0
    assert again.stdout.count("kept") == 4
    whole = file_digests(out)
    (out / "train_160.beton.xxh64").unlink()
    again = run(f"--data.source={sorted_tar}", f"--data.out={out}", "--data.caps=160,full")
    assert again.stdout.count("kept") == 3
    assert file_digests(out) == whole


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--data.source is required"),
        (["--data.source=x", "--data.caps=160,160"], 2, "data.caps"),
        (["--data.source=x", "--data.caps=0"], 2, "data.caps"),
        (["--data.source=" + __file__], 2, "neither a tar, a folder"),
    ],
)
def test_wrong_options_are_one_line_errors(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments, f"--data.out={tmp_path}")
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_resized_archive_are_kept_unchanged(tmp_path: Path) -> None:
    files = {
        f"imagenet-sz/{cap}/{split}/n{label:08d}/{at}.JPEG": jpeg(photo(at, cap * 4 // 3, cap), quality=75)
        for cap in (160, 320, 352)
        for split, count in (("train", 6), ("validation", 2))
        for label in range(2)
        for at in range(count)
    }
    odd = oddities()
    for cap in (160, 320, 352):
        files[f"imagenet-sz/{cap}/train/n00000000/odd.JPEG"] = odd["cmyk"]
    out = tmp_path / "out"
    convert(spec_for(write_tar(tmp_path / "sz.tar", files), out))
    caps = (160, 320, 352)
    assert sorted(path.name for path in out.glob("*.beton")) == sorted(
        f"{split}_{cap}.beton" for split in ("train", "val") for cap in caps
    )
    for cap in caps:
        path = out / f"train_{cap}.beton"
        record = read_manifest(path)
        assert record.modes == {"jpg": 13, "raw": 0, "original": 12}
        stored = [data for _, data in stored_samples(path)]
        wanted = [data for name, data in sorted(files.items()) if f"/{cap}/train/" in name]
        assert [one == other for one, other in zip(stored, wanted, strict=True)].count(False) == 1
    assert_no_faults(out)
    with pytest.raises(ConversionError, match=r"no images for full in the source; it has 160,320,352"):
        convert(spec_for(tmp_path / "sz.tar", tmp_path / "other", caps=("160", "full")))


def test_resized_and_original_archives_convert_together(tmp_path: Path) -> None:
    files = sorted_files(classes=2, per_class=3, val_per_class=1)
    resized = {name.replace("raw-data", "imagenet-sz/160"): jpeg(photo(1, 200, 160)) for name in files}
    sources = (write_tar(tmp_path / "a.tar", files), write_tar(tmp_path / "b.tar", resized))
    convert(spec_for(sources, tmp_path / "out"))
    assert read_manifest(tmp_path / "out/train_160.beton").originals
    assert not read_manifest(tmp_path / "out/train_320.beton").originals
    widths = read_layout(tmp_path / "out/train_160.beton").samples["f0"]["width"]
    assert widths.tolist() == [200] * 6
    assert_no_faults(tmp_path / "out")


def test_parquet_gives_the_same_samples(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted_files(classes=3, per_class=5, val_per_class=2)
    shards = tmp_path / "data"
    shards.mkdir()
    for split in ("train", "validation"):
        rows = [(name.split("/")[2:], data) for name, data in files.items() if f"/{split}/" in name]
        rows = rows[::-1]
        wnids = sorted({wnid for (wnid, _), _ in rows})
        image = [{"bytes": data, "path": f"{name.removesuffix('.JPEG')}_{wnid}.JPEG"} for (wnid, name), data in rows]
        table = pyarrow.table({"image": image, "label": [wnids.index(wnid) for (wnid, _), _ in rows]})
        half = len(rows) // 2
        for at, part in enumerate((table[:half], table[half:])):
            parquet.write_table(part, shards / f"{split}-{at:05d}-of-00002.parquet", row_group_size=3)
    convert(spec_for(tmp_path, tmp_path / "out"))
    convert(spec_for(tmp_path, tmp_path / "again", workers=1))
    convert(spec_for(write_tar(tmp_path / "sorted.tar", files), tmp_path / "sorted"))
    assert file_digests(tmp_path / "out", *DATA) == file_digests(tmp_path / "again", *DATA)
    assert_no_faults(tmp_path / "out")
    for path in (tmp_path / "sorted").glob("*.beton"):
        mine, wanted = read_manifest(tmp_path / "out" / path.name), read_manifest(path)
        assert mine.checksums_digest == wanted.checksums_digest
        assert mine.classes == wanted.classes
        assert np.array_equal(read_layout(tmp_path / "out" / path.name).samples["f1"], read_layout(path).samples["f1"])


def test_expect_option_compares_the_source_with_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "IMAGENET_CLASSES", 4)
    monkeypatch.setattr(classes, "IMAGENET_IMAGES", {"train": 12, "val": 4})
    files = sorted_files(classes=4, per_class=3, val_per_class=1)
    whole = write_tar(tmp_path / "a.tar", files)
    convert(spec_for(whole, tmp_path / "whole", caps=("160",)))
    short = write_tar(tmp_path / "b.tar", dict(list(files.items())[1:]))
    with pytest.raises(ConversionError, match=r"not ImageNet-1k: train: 11 images where ImageNet has 12; .*expect=any"):
        convert(spec_for(short, tmp_path / "short", caps=("160",)))
    convert(spec_for(short, tmp_path / "short", caps=("160",), expect="any"))
    folder = write_folder(tmp_path / "f", {"train/a/x.JPEG": jpeg(photo(1, 50, 50))})
    with pytest.raises(ConversionError, match="1 classes where"):
        convert(spec_for(folder, tmp_path / "f_out", splits=("train",), expect="imagenet1k"))


def test_page_is_larger_for_a_file_over_one_page(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1800, 2000, 3), np.uint8)
    large = jpeg(pixels, quality=100, subsampling=0)
    assert len(large) > PAGE_BYTES
    source = write_tar(tmp_path / "a.tar", {"train/a/a.JPEG": large, "train/b/b.JPEG": jpeg(photo(1))})
    convert(spec_for(source, tmp_path / "out", caps=("160", "full"), full="original", splits=("train",)))
    assert read_layout(tmp_path / "out/train_full.beton").page_bytes == 2 * PAGE_BYTES
    assert read_layout(tmp_path / "out/train_160.beton").page_bytes == PAGE_BYTES
    assert_no_faults(tmp_path / "out")


def test_samples_are_sorted_labelled_and_resized(betons: Path, sorted_tar: Path) -> None:
    files = sorted_files()
    expected = sorted((name.split("/")[2:], data) for name, data in files.items() if "/train/" in name)
    classes = sorted({key[0] for key, _ in expected})
    for cap in (160, 320, None):
        samples = stored_samples(betons / f"train_{cap or 'full'}.beton")
        assert [label for label, _ in samples] == [classes.index(key[0]) for key, _ in expected]
        for (_, data), (_, source) in zip(samples, expected, strict=True):
            original, image = Image.open(io.BytesIO(source)), Image.open(io.BytesIO(data))
            assert min(image.size) == min(*original.size, cap or 10_000)
            assert image.size[0] / image.size[1] == pytest.approx(original.size[0] / original.size[1], rel=0.01)
            # the same picture, not just one of the same size
            small = [np.asarray(each.resize((16, 16), Image.Resampling.BOX), np.float64) for each in (image, original)]
            assert np.abs(small[0] - small[1]).mean() < 1.5


def test_bytes_do_not_depend_on_workers_or_kind_of_source(tmp_path: Path, betons: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path / "one", workers=1))
    convert(spec_for(sorted_tar, tmp_path / "three", workers=3))
    expected = file_digests(betons)
    assert file_digests(tmp_path / "one") == file_digests(tmp_path / "three") == expected

    files = sorted_files()
    folder = write_folder(tmp_path / "folder", {name.removeprefix("raw-data/"): each for name, each in files.items()})
    halves = [dict(list(files.items())[::2]), dict(list(files.items())[1::2])]
    tars = tuple(write_tar(tmp_path / f"{at}.tar", half) for at, half in enumerate(halves))
    convert(spec_for(folder, tmp_path / "of_folder"))
    convert(spec_for(tars, tmp_path / "of_tars"))
    for out in ("of_folder", "of_tars"):
        assert file_digests(tmp_path / out, *DATA) == file_digests(betons, *DATA)


def test_beton_does_not_depend_on_other_sizes(tmp_path: Path, betons: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path, caps=("160",)))
    assert sorted(file.name for file in tmp_path.glob("*.beton")) == ["train_160.beton", "val_160.beton"]
    convert(spec_for(sorted_tar, tmp_path, caps=("full", "160", "320")))
    assert file_digests(tmp_path) == file_digests(betons)


@pytest.mark.parametrize(("mode", "share", "raw"), [("raw", 0.5, (40, 40)), ("proportion", 0.5, (8, 32))])
def test_raw_share_is_stored_as_pixels(
    tmp_path: Path, sorted_tar: Path, mode: str, share: float, raw: tuple[int, int]
) -> None:
    specs = [spec_for(sorted_tar, tmp_path / each, caps=("160",), mode=mode, raw_share=share) for each in ("a", "b")]
    for each in specs:
        convert(each)
    assert file_digests(tmp_path / "a") == file_digests(tmp_path / "b")
    path = tmp_path / "a/train_160.beton"
    images = read_layout(path).samples["f0"]
    assert raw[0] <= int((images["mode"] == RAW).sum()) <= raw[1]
    for image, (_, data) in zip(images, stored_samples(path), strict=True):
        if image["mode"] == RAW:
            assert len(data) == int(image["width"]) * int(image["height"]) * 3
    assert_no_faults(path.parent)


def test_filter_of_capped_sizes_is_in_the_manifest_and_is_kept(tmp_path: Path, sorted_tar: Path) -> None:
    options = {"caps": ("160", "full"), "splits": ("val",)}
    convert(spec_for(sorted_tar, tmp_path, filter="lanczos", **options))
    assert [read_manifest(tmp_path / f"val_{cap}.beton").filter for cap in (160, "full")] == ["lanczos", None]
    with pytest.raises(ConversionError, match=r"val_160\.beton: already exists, made with filter lanczos, not area"):
        convert(spec_for(sorted_tar, tmp_path, filter="area", **options))
    convert(spec_for(sorted_tar, tmp_path, filter="area", caps=("full",), splits=("val",)))  # which no filter touches


def test_sets_of_different_filters_do_not_get_into_one_folder(tmp_path: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path, filter="lanczos", caps=("160",), splits=("val",)))
    (tmp_path / "val_200.beton").write_bytes(b"not a beton")
    more = {"caps": ("320",), "splits": ("val",)}
    with pytest.raises(
        ConversionError, match=r"val_160\.beton: made with filter lanczos, .*give --write\.filter=lanczos"
    ):
        convert(spec_for(sorted_tar, tmp_path, filter="area", **more))
    convert(spec_for(sorted_tar, tmp_path, filter="lanczos", **more))


def test_capped_betons_have_restart_markers_and_full_ones_none(tmp_path: Path, betons: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path, caps=("160", "full"), seekable=False))
    plain, cut, full = tmp_path / "train_160.beton", betons / "train_160.beton", betons / "train_full.beton"
    for path, interval in ((plain, 0), (cut, 1), (full, 0)):
        assert {codec.probe(data).restart_interval for _, data in stored_samples(path)} == {interval}
        assert read_manifest(path).seekable == bool(interval)
    for (_, one), (_, other) in zip(stored_samples(plain), stored_samples(cut), strict=True):
        np.testing.assert_array_equal(codec.decode(one), codec.decode(other))
    assert (tmp_path / "train_full.beton").read_bytes() == full.read_bytes()
