"""Images that must not go into a beton as they are, and betons that are not what was written."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from helpers.images import damaged, jpeg, photo, sorted_files, spec_for, write_tar
from PIL import Image

from data_tools import verify
from data_tools.beton.format import HEADER, SAMPLES_START, read_layout
from data_tools.beton.manifest import checksums_path, manifest_path, read_manifest
from data_tools.convert import transcode
from data_tools.convert.converter import convert
from data_tools.convert.plan import ConversionError


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

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
    "wide png": png_header(70_000, 2),
}
BAD = damaged() | BOMBS


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_never_stored(name: str) -> None:
    with pytest.raises(transcode.BadImageError) as caught:
        transcode.decode(BAD[name])
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(12_000, 8_000), (65_535, 1)])
def test_the_limits_themselves_are_allowed(width: int, height: int) -> None:
    """100 megapixels and a side of 65,535: the header passes, and only then the missing data is found."""
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


def test_on_bad_skip_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    source = source_with(tmp_path, BAD)
    convert(spec_for(source, tmp_path / "out", on_bad="skip", max_bad=20))
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


def test_more_bad_images_than_allowed(tmp_path: Path) -> None:
    source = source_with(tmp_path, BAD)
    with pytest.raises(ConversionError, match=r"more than --write\.max_bad=11 images of train are bad"):
        convert(spec_for(source, tmp_path / "out", on_bad="skip", max_bad=11))


def test_a_failed_run_goes_on_with_skip(tmp_path: Path) -> None:
    source = source_with(tmp_path, {"truncated": BAD["truncated"]})
    with pytest.raises(ConversionError):
        convert(spec_for(source, tmp_path / "out"))
    convert(spec_for(source, tmp_path / "out", on_bad="skip"))
    convert(spec_for(source, tmp_path / "straight", on_bad="skip"))
    for path in sorted((tmp_path / "straight").iterdir()):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", {"train/c/a": b"no image"})
    with pytest.raises(ConversionError, match="not one image could be stored"):
        convert(spec_for(source, tmp_path / "out", on_bad="skip"))


# ---------------------------------------------------------------------------------------------- verify
@pytest.fixture
def copied(tmp_path: Path, betons: Path) -> Path:
    """val_160.beton and what is beside it, to be damaged."""
    for path in betons.glob("val_160.beton*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "val_160.beton"


def faults(path: Path, full: bool = True) -> list[str]:
    found = list(verify.verify(path, full=full))
    assert all(fault and "\n" not in fault for fault in found)
    return found


def test_every_flipped_byte_is_found(copied: Path) -> None:
    """Wherever it is: tables, pictures, or the zeros between them."""
    assert faults(copied) == []
    whole = copied.read_bytes()
    found = read_layout(copied)
    table, head = int(found.header["alloc_table_ptr"]), SAMPLES_START + found.samples.nbytes
    pictures = [int(image["data_ptr"]) for image in found.samples["f0"]]
    rng = random.Random(1)
    places = [rng.randrange(HEADER.itemsize) for _ in range(8)]
    places += [rng.randrange(head) for _ in range(12)]
    places += [rng.randrange(SAMPLES_START, head) for _ in range(12)]
    places += [rng.randrange(table, len(whole)) for _ in range(12)]
    places += [each + rng.randrange(1000) for each in pictures]
    places += [rng.randrange(head, table) for _ in range(12)]
    with copied.open("r+b") as file:
        for at in places:
            for byte in (whole[at] ^ (1 << rng.randrange(8)), whole[at]):
                file.seek(at)
                file.write(bytes([byte]))
                file.flush()
                if byte != whole[at]:
                    assert faults(copied), f"byte {at} of {len(whole)}"
                    if at < head or at >= table:
                        assert faults(copied, full=False), f"byte {at} of the tables"


def test_a_damaged_picture_is_named(copied: Path) -> None:
    found = read_layout(copied)
    content = bytearray(copied.read_bytes())
    content[int(found.samples["f0"]["data_ptr"][7]) + 900] ^= 1
    copied.write_bytes(content)
    wnid = read_manifest(copied).classes[int(found.samples["f1"][7])]
    assert [fault.partition(": ")[2] for fault in faults(copied)] == [
        f"sample 7 ({wnid}): its bytes do not match their checksum"
    ]
    assert faults(copied, full=False) == []


@pytest.mark.parametrize("keep", [0, 10, 24, 2000, 2400, 9 << 20, -24, -1])
def test_a_file_cut_short(copied: Path, keep: int) -> None:
    copied.write_bytes(copied.read_bytes()[:keep])
    assert faults(copied, full=False)


def test_a_file_with_something_behind_it(copied: Path) -> None:
    copied.write_bytes(copied.read_bytes() + bytes(24))
    assert faults(copied, full=False)


def test_what_is_beside_it_must_be_its_own(copied: Path, betons: Path) -> None:
    sidecar, record = checksums_path(copied), manifest_path(copied)
    kept = sidecar.read_bytes(), record.read_bytes()
    sidecar.write_bytes((betons / "val_320.beton.xxh64").read_bytes())
    assert "val_160.beton.xxh64" in faults(copied, full=False)[0]
    sidecar.unlink()
    assert "val_160.beton.xxh64" in faults(copied, full=False)[0]
    sidecar.write_bytes(kept[0])
    record.write_bytes((betons / "val_320.beton.json").read_bytes())
    assert faults(copied, full=False)
    record.unlink()
    assert "no manifest beside the beton" in faults(copied, full=False)[0]
    record.write_bytes(kept[1])
    assert faults(copied) == []


def test_command_line(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(copied), "--full"]) == 0
    assert "sound" in capsys.readouterr().out
    assert verify.main([str(copied), str(copied.with_name("none.beton"))]) == 1
    assert "no beton here; run write_datasets.py" in capsys.readouterr().out


def test_a_picture_of_another_size_than_the_tables_say(copied: Path) -> None:
    """Even where a foreign tool has made all checksums agree: the picture itself is looked at."""
    found = read_layout(copied)
    with Image.open(io.BytesIO(copied.read_bytes()[int(found.samples["f0"]["data_ptr"][0]) :])) as image:
        assert image.size == (int(found.samples["f0"]["width"][0]), int(found.samples["f0"]["height"][0]))
    content = bytearray(copied.read_bytes())
    content[SAMPLES_START + 1] += 1  # the width of sample 0
    copied.write_bytes(content)
    manifest_path(copied).unlink()
    assert any("sample 0" in fault and "decodes to" in fault for fault in faults(copied))
