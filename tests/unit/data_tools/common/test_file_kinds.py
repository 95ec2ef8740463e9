"""Telling files apart by name and first bytes; pictures are made by PIL."""

import io

import pytest
from PIL import Image

from data_tools.common.file_kinds import is_image, picture_kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_pictures_are_known_by_their_first_bytes(kind: str) -> None:
    out = io.BytesIO()
    try:
        Image.new("RGB", (8, 8)).save(out, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    assert kind.replace("JPEG2000", "JPEG 2000").lower() in picture_kind(out.getvalue()).lower()


@pytest.mark.parametrize(
    "text", [b"", b"BM", b"BMW i3 and others, as text\0\0\0\0", b"GIF is a format", b"RIFF....WAVE", b"II", b"\xff\xd8"]
)
def test_other_files_are_no_pictures(text: bytes) -> None:
    assert picture_kind(text) == ""


def test_an_image_has_the_name_or_the_content_of_one() -> None:
    jpeg, other = (b"\xff\xd8\xff\xe0" + bytes(99)), b"text"
    names = {
        "a.JPEG": True,
        "a.PnG": True,
        "a.jp2": True,
        "a.txt": False,
        "jpeg": False,
        ".jpg": False,
        "._a.JPEG": False,
    }
    assert {name: is_image(name, lambda count: other[:count]) for name in names} == names
    assert {name: is_image(name, lambda count: jpeg[:count]) for name in ("a", "a.bin", ".a")} == {
        "a": True,
        "a.bin": True,
        ".a": False,
    }
