"""Images that must not be stored: named in an error, or left out and listed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from helpers.images import damaged_images, jpeg, photo, sorted_files, spec_for, write_tar
from helpers.images import png_chunk as chunk

from data_tools import verify
from data_tools.beton.manifest import read_manifest
from data_tools.convert import transcode
from data_tools.convert.converter import convert
from data_tools.convert.plan import ConversionError


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with hardly any data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header says it is so large."""
    data = bytearray(jpeg(photo(1, 32, 32)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


BOMBS = {
    "png bomb": png_header(20_000, 20_000),
    "jpeg bomb": jpeg_of_size(20_000, 5_001),
    "wide png": png_header(65_501, 2),
    "wide jpeg": jpeg_of_size(65_535, 1),
}
BAD = damaged_images() | BOMBS


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_never_stored(name: str) -> None:
    with pytest.raises(transcode.BadImageError) as caught:
        transcode.decode(BAD[name])
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(12_000, 8_000), (65_500, 1)])
def test_largest_allowed_size_passes_the_header_check(width: int, height: int) -> None:
    """100 megapixels and a side of 65,500: the header passes, and only then the missing data is found."""
    with pytest.raises(transcode.BadImageError) as caught:
        transcode.decode(jpeg_of_size(width, height))
    assert "more than" not in str(caught.value)
    assert "a side over" not in str(caught.value)


def source_with(folder: Path, bad: dict[str, bytes]) -> Path:
    files = sorted_files(classes=2, per_class=4, val_per_class=1)
    return write_tar(folder / "a.tar", files | {f"raw-data/train/n01440764/{name}.JPEG": bad[name] for name in bad})


@pytest.mark.parametrize("name", ["truncated", "png bomb"])
def test_on_bad_fail_names_archive_member_and_reason(tmp_path: Path, name: str) -> None:
    source = source_with(tmp_path, {name: BAD[name]})
    with pytest.raises(ConversionError) as caught:
        convert(spec_for(source, tmp_path / "out"))
    message = str(caught.value)
    assert str(source) in message
    assert f"n01440764/{name}.JPEG: " in message
    assert "--write.on_bad=skip" in message
    assert list((tmp_path / "out").glob("*.beton")) == []


def test_on_bad_skip_leaves_images_out_and_lists_them(tmp_path: Path) -> None:
    source = source_with(tmp_path, BAD)
    (of_train, *_) = convert(spec_for(source, tmp_path / "out", on_bad="skip", max_bad=20))
    assert of_train.bad == len(BAD)
    record = read_manifest(tmp_path / "out/train_160.beton")
    assert record.images == 8
    assert {each.image for each in record.skipped} == {f"n01440764/{name}.JPEG" for name in BAD}
    assert all(each.reason for each in record.skipped)
    assert read_manifest(tmp_path / "out/val_160.beton").skipped == ()
    for path in (tmp_path / "out").glob("*.beton"):
        assert list(verify.verify(path, full=True)) == []
    clean = source_with(tmp_path, {})
    convert(spec_for(clean, tmp_path / "clean"))
    assert record.checksums_digest == read_manifest(tmp_path / "clean/train_160.beton").checksums_digest


def test_more_bad_images_than_max_bad_are_an_error(tmp_path: Path) -> None:
    source = source_with(tmp_path, BAD)
    with pytest.raises(ConversionError, match=r"more than --write\.max_bad=12 images of train are bad"):
        convert(spec_for(source, tmp_path / "out", on_bad="skip", max_bad=12))


def test_failed_conversion_continues_with_skip(tmp_path: Path) -> None:
    source = source_with(tmp_path, {"truncated": BAD["truncated"]})
    with pytest.raises(ConversionError):
        convert(spec_for(source, tmp_path / "out"))
    convert(spec_for(source, tmp_path / "out", on_bad="skip"))
    convert(spec_for(source, tmp_path / "straight", on_bad="skip"))
    for path in sorted((tmp_path / "straight").iterdir()):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_split_of_only_bad_images_is_an_error(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", {f"train/{name}/a.JPEG": b"no image" for name in "cd"})
    with pytest.raises(ConversionError, match="no image could be stored"):
        convert(spec_for(source, tmp_path / "out", on_bad="skip", splits=("train",)))
