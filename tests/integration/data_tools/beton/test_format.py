"""Finished betons, read by stock FFCV and by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from helpers.betons import decoded_samples, stored_samples
from helpers.images import spec_for
from PIL import Image

from data_tools.beton.format import ALLOC, FIELD, HEADER, SAMPLE, VERSION, read_layout
from data_tools.beton.manifest import read_manifest
from data_tools.convert.converter import convert


def test_digest_is_that_of_file_and_checksums(betons: Path) -> None:
    """As beton_digest documents it, with nothing but the file and the sidecar."""
    path = betons / "train_320.beton"
    content, sidecar = path.read_bytes(), (betons / "train_320.beton.xxh64").read_bytes()
    table = int.from_bytes(content[16:24], "little")
    head = content[: 24 + 2 * 1041 + 40 * 24]
    assert read_manifest(path).digest == hashlib.sha256(head + content[table:] + sidecar).hexdigest()


def test_table_types_equal_those_of_ffcv() -> None:
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
    layout = read_layout(out / "train_full.beton")
    assert len(np.unique(layout.alloc["ptr"] // layout.page_bytes)) >= 2
    return out / "train_full.beton"


@pytest.mark.parametrize("mode", ["os_cache", "process_cache", "quasi_random"])
@pytest.mark.parametrize("which", ["train_160", "val_full", "several pages"])
def test_stock_ffcv_reads_betons(betons: Path, several_pages: Path, which: str, mode: str) -> None:
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
    assert sorted(labels.tolist()) == sorted(label for label, _ in stored_samples(path))
    if mode == "quasi_random":
        return
    pictures = np.concatenate([each for each, _ in batches]).astype(np.float64)
    for picture, image in zip(pictures, decoded_samples(path), strict=True):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        wanted = image.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.BOX)
        assert np.abs(picture - np.asarray(wanted, np.float64)).mean() < 4
