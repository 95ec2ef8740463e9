"""Betons as the writer leaves them, read by stock FFCV and by hand."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from helpers.images import make_sorted_tar, oddities, sorted_files, spec_for, write_folder, write_tar
from PIL import Image

from data_tools.beton.format import ALLOC, FIELD, HEADER, RAW, SAMPLE, VERSION, check, read_layout
from data_tools.beton.manifest import checksums_path, read_manifest
from data_tools.convert.converter import convert
from data_tools.native import codec

NAMES = [f"{split}_{cap}.beton" for split in ("train", "val") for cap in ("160", "320", "full")]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def stored(path: Path) -> list[tuple[int, bytes]]:
    """(label, bytes) of every sample."""
    content, found = path.read_bytes(), read_layout(path)
    sizes = found.sizes()
    return [
        (int(label), content[int(image["data_ptr"]) : int(image["data_ptr"] + size)])
        for image, label, size in zip(found.samples["f0"], found.samples["f1"], sizes, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_betons_are_sound_and_described(betons: Path, name: str) -> None:
    record = read_manifest(betons / name)
    assert check(betons / name, record) == []
    assert record.images == (40 if record.split == "train" else 12)
    assert record.classes == tuple(sorted(record.classes))
    assert len(record.classes) == 4
    sidecar = np.frombuffer(checksums_path(betons / name).read_bytes(), "<u8")
    assert [codec.checksum(data) for _, data in stored(betons / name)] == sidecar.tolist()
    assert record.checksums_digest == hashlib.sha256(sidecar.tobytes()).hexdigest()


def test_digest_can_be_recomputed_by_hand(betons: Path) -> None:
    """As beton_digest documents it, with nothing but the file and the sidecar."""
    path = betons / "train_320.beton"
    content, sidecar = path.read_bytes(), (betons / "train_320.beton.xxh64").read_bytes()
    table = int.from_bytes(content[16:24], "little")
    head = content[: 24 + 2 * 1041 + 40 * 24]
    assert read_manifest(path).digest == hashlib.sha256(head + content[table:] + sidecar).hexdigest()


def test_order_labels_and_sizes(betons: Path, sorted_tar: Path) -> None:
    files = sorted_files()
    expected = sorted((name.split("/")[2:], data) for name, data in files.items() if "/train/" in name)
    classes = sorted({key[0] for key, _ in expected})
    for cap in (160, 320, None):
        samples = stored(betons / f"train_{cap or 'full'}.beton")
        assert [label for label, _ in samples] == [classes.index(key[0]) for key, _ in expected]
        for (_, data), (_, source) in zip(samples, expected, strict=True):
            original, image = Image.open(io.BytesIO(source)), Image.open(io.BytesIO(data))
            assert min(image.size) == min(*original.size, cap or 10_000)
            assert image.size[0] / image.size[1] == pytest.approx(original.size[0] / original.size[1], rel=0.01)
            # the same picture, not just one of the same size
            small = [np.asarray(each.resize((16, 16), Image.Resampling.BOX), np.float64) for each in (image, original)]
            assert np.abs(small[0] - small[1]).mean() < 1.5


def test_dtypes_are_those_of_ffcv() -> None:
    types = pytest.importorskip("ffcv.types")
    fields = pytest.importorskip("ffcv.fields")
    handlers = [fields.RGBImageField(), fields.IntField()]
    theirs = types.get_metadata_type(handlers)
    assert (theirs.itemsize, theirs.fields["f0"], theirs.fields["f1"]) == (
        SAMPLE.itemsize,
        SAMPLE.fields["f0"],
        SAMPLE.fields["f1"],
    )
    assert types.ALLOC_TABLE_TYPE == ALLOC
    assert types.HeaderType.itemsize == HEADER.itemsize
    assert types.HeaderType.fields["alloc_table_ptr"] == HEADER.fields["alloc_table_ptr"]
    assert types.FieldDescType.itemsize == FIELD.itemsize
    assert types.CURRENT_VERSION == VERSION


@pytest.fixture(scope="module")
def several_pages(tmp_path_factory: pytest.TempPathFactory, sorted_tar: Path) -> Path:
    """A beton of pixels and JPEGs mixed, which takes more than one page."""
    out = tmp_path_factory.mktemp("pages")
    convert(spec_for(sorted_tar, out, caps=("full",), mode="proportion", raw_share=0.8))
    found = read_layout(out / "train_full.beton")
    assert len(np.unique(found.alloc["ptr"] // found.page_bytes)) >= 2
    return out / "train_full.beton"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numba's finalizers
@pytest.mark.parametrize("mode", ["os_cache", "process_cache", "quasi_random"])
@pytest.mark.parametrize("which", ["train_160", "val_full", "several pages"])
def test_stock_ffcv_reads_it(betons: Path, several_pages: Path, which: str, mode: str) -> None:
    pytest.importorskip("ffcv")
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    path = several_pages if which == "several pages" else betons / f"{which}.beton"
    loader = Loader(
        str(path),
        batch_size=8,
        num_workers=1,
        os_cache=mode == "os_cache",
        order=OrderOption.QUASI_RANDOM if mode == "quasi_random" else OrderOption.SEQUENTIAL,
        seed=1,
        drop_last=False,
        pipelines={"image": [CenterCropRGBImageDecoder((64, 64), 1.0)], "label": [IntDecoder()]},
    )
    batches = [(images.copy(), labels.copy()) for images, labels in loader]
    labels = np.concatenate([each for _, each in batches]).reshape(-1)
    assert sorted(labels.tolist()) == sorted(label for label, _ in stored(path))
    if mode == "quasi_random":
        return
    pictures = np.concatenate([each for each, _ in batches]).astype(np.float64)
    for picture, image in zip(pictures, pictures_of(path), strict=True):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        wanted = image.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.BOX)
        assert np.abs(picture - np.asarray(wanted, np.float64)).mean() < 4


def pictures_of(path: Path) -> list[Image.Image]:
    """Every sample as PIL sees it."""
    images = read_layout(path).samples["f0"]
    return [
        Image.frombytes("RGB", (int(image["width"]), int(image["height"])), data)
        if image["mode"] == RAW
        else Image.open(io.BytesIO(data))
        for image, (_, data) in zip(images, stored(path), strict=True)
    ]


def test_the_same_bytes_for_any_number_of_workers_and_any_source(
    tmp_path: Path, betons: Path, sorted_tar: Path
) -> None:
    convert(spec_for(sorted_tar, tmp_path / "one", workers=1))
    convert(spec_for(sorted_tar, tmp_path / "three", workers=3))
    expected = digests(betons)
    assert digests(tmp_path / "one") == digests(tmp_path / "three") == expected

    files = sorted_files()
    folder = write_folder(tmp_path / "folder", {name.removeprefix("raw-data/"): each for name, each in files.items()})
    halves = [dict(list(files.items())[::2]), dict(list(files.items())[1::2])]
    tars = tuple(write_tar(tmp_path / f"{at}.tar", half) for at, half in enumerate(halves))
    convert(spec_for(folder, tmp_path / "of_folder"))
    convert(spec_for(tars, tmp_path / "of_tars"))
    for out in ("of_folder", "of_tars"):
        found = digests(tmp_path / out)
        assert {name: found[name] for name in found if not name.endswith("json")} == {
            name: expected[name] for name in expected if not name.endswith("json")
        }


def test_a_beton_does_not_depend_on_the_others(tmp_path: Path, betons: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path, caps=("160",)))
    assert sorted(file.name for file in tmp_path.glob("*.beton")) == ["train_160.beton", "val_160.beton"]
    convert(spec_for(sorted_tar, tmp_path, caps=("full", "160", "320")))
    assert digests(tmp_path) == digests(betons)


def test_originals_are_kept_byte_for_byte_where_they_are_plain_jpegs(tmp_path: Path) -> None:
    odd = oddities()
    source = write_tar(tmp_path / "a.tar", {f"x/train/c/{name}.JPEG": data for name, data in odd.items()})
    convert(spec_for(source, tmp_path / "out", caps=("full", "160"), full="original"))
    samples = dict(zip(sorted(odd), [data for _, data in stored(tmp_path / "out/train_full.beton")], strict=True))
    for name, data in odd.items():
        kept = name not in ("cmyk", "png", "palette", "alpha")
        assert (samples[name] == data) == kept, name
    record = read_manifest(tmp_path / "out/train_full.beton")
    assert record.modes == {"jpg": len(odd), "raw": 0, "original": len(odd) - 4}
    assert check(tmp_path / "out/train_full.beton", record) == []


@pytest.mark.parametrize(("mode", "share", "raw"), [("raw", 0.5, (40, 40)), ("proportion", 0.5, (8, 32))])
def test_raw_pixels(tmp_path: Path, sorted_tar: Path, mode: str, share: float, raw: tuple[int, int]) -> None:
    specs = [spec_for(sorted_tar, tmp_path / each, caps=("160",), mode=mode, raw_share=share) for each in ("a", "b")]
    for each in specs:
        convert(each)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    path = tmp_path / "a/train_160.beton"
    images = read_layout(path).samples["f0"]
    assert raw[0] <= int((images["mode"] == RAW).sum()) <= raw[1]
    for image, (_, data) in zip(images, stored(path), strict=True):
        if image["mode"] == RAW:
            assert len(data) == int(image["width"]) * int(image["height"]) * 3
    assert check(path, read_manifest(path)) == []


def test_longer_side(tmp_path: Path) -> None:
    source = make_sorted_tar(tmp_path / "a.tar", classes=2, per_class=3, val_per_class=0)
    spec = spec_for(source, tmp_path / "out", caps=("160",))
    longer = type(spec)(data=type(spec.data)(source=(source,), out=tmp_path / "out", caps=("160",), side="longer"))
    convert(longer)
    images = read_layout(tmp_path / "out/train_160.beton").samples["f0"]
    assert np.maximum(images["width"], images["height"]).tolist() == [160] * 6


def test_capped_sizes_can_be_cut_and_full_ones_are_plain(tmp_path: Path, betons: Path, sorted_tar: Path) -> None:
    convert(spec_for(sorted_tar, tmp_path, caps=("160", "full"), seekable=False))
    plain, cut, full = tmp_path / "train_160.beton", betons / "train_160.beton", betons / "train_full.beton"
    for path, interval in ((plain, 0), (cut, 1), (full, 0)):
        assert {codec.probe(data).restart_interval for _, data in stored(path)} == {interval}
        assert read_manifest(path).seekable == bool(interval)
    for (_, one), (_, other) in zip(stored(plain), stored(cut), strict=True):
        np.testing.assert_array_equal(codec.decode(one), codec.decode(other))
    assert (tmp_path / "train_full.beton").read_bytes() == full.read_bytes()
