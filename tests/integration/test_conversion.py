"""Whole conversions of every kind of source, through the command line where that matters."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.images import jpeg, member, oddities, photo, sorted_files, spec_for, write_folder, write_tar
from PIL import Image

from data_tools import describe, verify
from data_tools.beton import classes
from data_tools.beton.format import PAGE_BYTES, read_layout
from data_tools.beton.manifest import read_manifest
from data_tools.convert import estimate, plan
from data_tools.convert.config import Data, WriteSpec
from data_tools.convert.converter import convert
from data_tools.convert.plan import ConversionError

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "write_datasets.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, cwd="/")


def data_of(out: Path) -> dict[str, str]:
    """Digests of betons and checksums; manifests name their sources, which differ."""
    files = [*out.glob("*.beton"), *out.glob("*.xxh64")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def assert_sound(out: Path) -> None:
    for path in out.glob("*.beton"):
        assert list(verify.verify(path, full=True)) == []


def test_command_line(tmp_path: Path, sorted_tar: Path) -> None:
    out = tmp_path / "out"
    done = run(f"--data.source={sorted_tar}", f"--data.out={out}", "--data.caps=160,full", WRITE_QUALITY="5")
    assert done.returncode == 0, done.stderr
    assert "40 train, 12 val images of 4 classes" in done.stderr
    assert "estimate" in done.stderr
    for name in ("train_160", "train_full", "val_160", "val_full"):
        assert f"{name}.beton" in done.stdout
    assert read_manifest(out / "train_160.beton").quality == 90
    assert_sound(out)
    again = run(f"--data.source={sorted_tar}", f"--data.out={out}", "--data.caps=160,full")
    assert again.returncode == 0
    assert again.stdout.count("there") == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--data.source is required"),
        (["--data.source=x", "--data.cap=160"], 2, "unknown option --data.cap; did you mean --data.caps"),
        (["--data.source=x", "--data.caps=160,160"], 2, "data.caps"),
        (["--data.source=x", "--data.caps=0"], 2, "data.caps"),
        (["--data.source=x", "--write.quality=101"], 2, "write.quality: 101 is out of range"),
        (["--data.source=/nowhere/x.tar"], 1, "/nowhere/x.tar: no such source"),
        (["--data.source=" + __file__], 1, "neither a tar, a folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments, f"--data.out={tmp_path}")
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in ("data.source", "data.caps", "data.expect", "write.full", "write.raw_share", "write.max_bad"):
        assert f"--{name}" in done.stdout


def test_resized_archive_goes_in_unchanged(tmp_path: Path) -> None:
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
        found, record = read_layout(path), read_manifest(path)
        assert record.modes == {"jpg": 13, "raw": 0, "original": 12}
        content = path.read_bytes()
        sizes = found.sizes()
        stored = [
            content[int(at) : int(at + size)] for at, size in zip(found.samples["f0"]["data_ptr"], sizes, strict=True)
        ]
        wanted = [data for name, data in sorted(files.items()) if f"/{cap}/train/" in name]
        assert [one == other for one, other in zip(stored, wanted, strict=True)].count(False) == 1
    assert_sound(out)
    with pytest.raises(ConversionError, match=r"no images for full in the source; it has 160,320,352"):
        convert(spec_for(tmp_path / "sz.tar", tmp_path / "other", caps=("160", "full")))


def test_resized_and_original_archives_together(tmp_path: Path) -> None:
    files = sorted_files(classes=2, per_class=3, val_per_class=1)
    resized = {name.replace("raw-data", "imagenet-sz/160"): jpeg(photo(1, 200, 160)) for name in files}
    sources = (write_tar(tmp_path / "a.tar", files), write_tar(tmp_path / "b.tar", resized))
    convert(spec_for(sources, tmp_path / "out"))
    assert read_manifest(tmp_path / "out/train_160.beton").originals
    assert not read_manifest(tmp_path / "out/train_320.beton").originals
    widths = read_layout(tmp_path / "out/train_160.beton").samples["f0"]["width"]
    assert widths.tolist() == [200] * 6
    assert_sound(tmp_path / "out")


def test_official_archives_give_the_betons_of_the_sorted_tar(tmp_path: Path) -> None:
    files = sorted_files(classes=3, per_class=4, val_per_class=0)
    inner: dict[str, io.BytesIO] = {}
    for wnid in sorted({name.split("/")[2] for name in files}):
        inner[wnid] = io.BytesIO()
        with tarfile.open(fileobj=inner[wnid], mode="w") as tar:
            for name, data in files.items():
                if f"/{wnid}/" in name:
                    tar.addfile(member(name.rsplit("/", 1)[1], data), io.BytesIO(data))
    official = write_tar(tmp_path / "train", {f"{wnid}.tar": each.getvalue() for wnid, each in inner.items()})
    convert(spec_for(official, tmp_path / "official"))
    convert(spec_for(write_tar(tmp_path / "sorted.tar", files), tmp_path / "sorted"))
    assert data_of(tmp_path / "official") == data_of(tmp_path / "sorted")


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
    assert data_of(tmp_path / "out") == data_of(tmp_path / "again")
    assert_sound(tmp_path / "out")
    for path in (tmp_path / "sorted").glob("*.beton"):
        mine, wanted = read_manifest(tmp_path / "out" / path.name), read_manifest(path)
        assert mine.checksums_digest == wanted.checksums_digest
        assert mine.classes == wanted.classes
        assert np.array_equal(read_layout(tmp_path / "out" / path.name).samples["f1"], read_layout(path).samples["f1"])


def test_expectations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "IMAGENET_CLASSES", 4)
    monkeypatch.setattr(classes, "IMAGENET_IMAGES", {"train": 12, "val": 4})
    files = sorted_files(classes=4, per_class=3, val_per_class=1)
    whole = write_tar(tmp_path / "a.tar", files)
    convert(spec_for(whole, tmp_path / "whole", caps=("160",)))
    short = write_tar(tmp_path / "b.tar", dict(list(files.items())[1:]))
    with pytest.raises(ConversionError, match=r"not ImageNet-1k: train: 11 images where ImageNet has 12; .*expect=any"):
        convert(spec_for(short, tmp_path / "short", caps=("160",)))
    anyway = WriteSpec(data=Data(source=(short,), out=tmp_path / "short", caps=("160",), expect="any"))
    convert(anyway)
    folder = write_folder(tmp_path / "f", {"train/a/x.JPEG": jpeg(photo(1, 50, 50))})
    with pytest.raises(ConversionError, match="1 classes where"):
        convert(WriteSpec(data=Data(source=(folder,), out=tmp_path / "f_out", expect="imagenet1k")))


def test_the_page_grows_with_the_largest_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1800, 2000, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    large = jpeg(pixels, quality=100, subsampling=0)
    assert len(large) > PAGE_BYTES
    source = write_tar(tmp_path / "a.tar", {"train/c/a.JPEG": large, "train/c/b.JPEG": jpeg(photo(1))})
    convert(spec_for(source, tmp_path / "out", caps=("160", "full"), full="original"))
    assert read_layout(tmp_path / "out/train_full.beton").page_bytes == 2 * PAGE_BYTES
    assert read_layout(tmp_path / "out/train_160.beton").page_bytes == PAGE_BYTES
    assert_sound(tmp_path / "out")


def test_the_estimate_is_near_what_is_written(
    tmp_path: Path, sorted_tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_sampled", lambda split_index: range(len(split_index)))
    said: list[str] = []
    spec = spec_for(sorted_tar, tmp_path, mode="proportion")
    from data_tools.sources.scan import read_index

    index = read_index(spec.data.source)
    found = {
        each.path.name: each for job in plan.plan(index, spec) for each in estimate.estimate(job, index, workers=1)
    }
    convert(spec, say=said.append)
    assert any("all raw" in line for line in said)
    for path in tmp_path.glob("train*.beton"):
        stored = int(read_layout(path).sizes().sum())
        assert found[path.name].bytes == pytest.approx(stored, rel=0.05)
        assert found[path.name].bytes_jpg < found[path.name].bytes < found[path.name].bytes_raw
        assert found[path.name].minutes > 0


def test_describe(betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main([str(betons / "train_160.beton"), "--sheet", str(tmp_path / "s.png")]) == 0
    text = capsys.readouterr().out
    for words in (
        "40 images",
        "shorter side at most 160 px",
        "4 classes, 4 with images: fewest 10",
        "stored as JPEG 40, as pixels 0",
        "quality (estimate) of 40 looked at: 90 100%",
        "subsampling of 40 looked at: 420 100%",
        "width / height",
    ):
        assert words in text, words
    with Image.open(tmp_path / "s.png") as sheet:
        assert np.asarray(sheet).std() > 30
    assert describe.main([str(betons / "none.beton")]) == 1
