"""Pictures that PIL reads: whole ones have its pixels, and one that lacks data is bad even where PIL raises nothing."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from helpers.images import encoded, photo
from helpers.images import png_chunk as chunk
from PIL import Image

from data_tools.convert import pil_images
from data_tools.convert.transcode import BadImageError, decode

PIXELS = photo(1, 173, 121)
RGB = Image.fromarray(PIXELS)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def recoded_png(png: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The PNG with other rows (filter bytes and pixels), in a sound zlib stream with sound checksums."""
    out, rows, at = png[:8], b"", 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        data, at = png[at + 8 : at + 8 + size], at + 12 + size
        if kind == b"IEND":
            out += chunk(b"IDAT", zlib.compress(change(zlib.decompress(rows))))
        if kind == b"IDAT":
            rows += data
        else:
            out += chunk(kind, data)
    return out


def interlaced_png() -> bytes:
    passes = (PIXELS[top::down, left::across] for left, top, across, down in ADAM7)
    rows = b"".join(b"\0" + row.tobytes() for each in passes for row in each)
    header = struct.pack(">IIBBBBB", 173, 121, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def in_mode(mode: str, kind: str, **options: object) -> bytes:
    grey = PIXELS[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else RGB.convert(mode)
    return encoded(image, kind, **options)


def animated(kind: str, mode: str) -> bytes:
    second = Image.fromarray(PIXELS[::-1].copy()).convert(mode)
    return encoded(RGB.convert(mode), kind, save_all=True, append_images=[second])


def small_first_frame(transparency: int | None) -> bytes:
    """A GIF whose first frame covers a part of the picture."""
    options = {} if transparency is None else {"transparency": transparency}
    gif = bytearray(encoded(RGB.crop((0, 0, 60, 50)).convert("P"), "GIF", **options))
    gif[6:10] = struct.pack("<HH", 100, 90)
    return bytes(gif)


def recoded_gif(gif: bytes, change: Callable[[bytes, int], bytes]) -> bytes:
    """The GIF with other coded data in its first frame; `change` gets them and the number of bits of a pixel."""
    with Image.open(io.BytesIO(gif)) as image:
        start = end = image.tile[0].offset
    coded = b""
    while gif[end]:
        coded, end = coded + gif[end + 1 : end + 1 + gif[end]], end + 1 + gif[end]
    coded = change(coded, gif[start - 1])
    blocks = [coded[at : at + 255] for at in range(0, len(coded), 255)]
    return gif[:start] + b"".join(bytes([len(block)]) + block for block in blocks) + gif[end:]


def clear_and_end(coded: bytes, bits: int) -> bytes:
    return (1 << bits | (1 << bits) + 1 << bits + 1).to_bytes(4, "little")


def with_last_strip(tiff: bytes, change: Callable[[int], int]) -> bytes:
    """The TIFF with another number of bytes in its last strip."""
    at = struct.unpack("<I", tiff[4:8])[0] + 2
    while (entry := struct.unpack("<HHII", tiff[at : at + 12]))[0] != 279:
        at += 12
    form = "<H" if entry[1] == 3 else "<I"
    size = struct.calcsize(form)
    last = (at + 8 if size * entry[2] <= 4 else entry[3]) + size * (entry[2] - 1)
    value = change(struct.unpack(form, tiff[last : last + size])[0])
    return tiff[:last] + struct.pack(form, value) + tiff[last + size :]


def rle_bmp(rows: int) -> bytes:
    coded = b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in PIXELS[:rows, :, 0]) + b"\0\1"
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 173, 121, 1, 8, 1, len(coded), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(coded), 0, 0, 1078) + header + palette + coded


PNGS = {f"png {mode}": in_mode(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")}
PNGS |= {"png interlaced": interlaced_png(), "apng": animated("PNG", "RGB")}
GIFS = {"gif": in_mode("P", "GIF"), "gif L": in_mode("L", "GIF"), "gif animated": animated("GIF", "P")}
COMPRESSIONS = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
TIFFS = {f"tiff {name}": encoded(RGB, "TIFF", compression=name, strip_size=8192) for name in COMPRESSIONS}
WHOLE = {
    **PNGS,
    **GIFS,
    **TIFFS,
    "png of the first canvas's colour": encoded(Image.new("RGB", (9, 7), (253, 2, 254)), "PNG"),
    "png with more rows": recoded_png(PNGS["png RGB"], lambda rows: rows + b"more"),
    "gif, small first frame": small_first_frame(None),
    "gif, small first frame, transparent": small_first_frame(3),
    "tiff 1": in_mode("1", "TIFF", compression="group4"),
    "webp": in_mode("RGB", "WEBP"),
    "webp lossless": in_mode("RGBA", "WEBP", lossless=True),
    "bmp": in_mode("RGB", "BMP"),
    "bmp P": in_mode("P", "BMP"),
    "bmp run length": rle_bmp(121),
    "ppm": in_mode("RGB", "PPM"),
    "pbm": in_mode("1", "PPM"),
}
STILL = [name for name in PNGS if name != "apng"]
SHORT = {
    **{f"{name}, half": recoded_png(PNGS[name], lambda rows: rows[: len(rows) // 2]) for name in STILL},
    **{f"{name}, a byte": recoded_png(PNGS[name], lambda rows: rows[:-1]) for name in STILL},
    **{f"{name}, half": recoded_gif(GIFS[name], lambda coded, _: coded[: len(coded) // 2]) for name in GIFS},
    **{f"{name}, early end": recoded_gif(GIFS[name], clear_and_end) for name in GIFS},
    **{f"{name}, strip": with_last_strip(TIFFS[name], lambda size: size // 2) for name in TIFFS},
    "tiff None, a byte": with_last_strip(TIFFS["tiff None"], lambda size: size - 1),
    "bmp run length": rle_bmp(60),
    **{f"{name}, cut": WHOLE[name][: len(WHOLE[name]) // 2] for name in [*STILL, "gif", *TIFFS]},
    **{f"{name}, cut": WHOLE[name][: len(WHOLE[name]) // 2] for name in ("webp", "webp lossless", "bmp", "ppm", "pbm")},
}


@pytest.mark.parametrize("name", [name for name in WHOLE if "I;16" not in name])
def test_whole_picture_has_the_pixels_of_pil(name: str) -> None:
    with Image.open(io.BytesIO(WHOLE[name])) as image:
        np.testing.assert_array_equal(decode(WHOLE[name]), np.asarray(image.convert("RGB")))


def tiff(bands: int, bits: int, kind: int = 1, white_is_zero: bool = False, samples: bytes = b"") -> bytes:
    """An uncompressed TIFF of 2 x 1 pixels; kind: 1 unsigned, 2 signed, 3 float."""
    samples = samples or bytes(2 * bands * bits // 8)
    after = 8 + 2 + 12 * 10 + 4
    shape, kinds = struct.pack(f"<{bands}H", *[bits] * bands), struct.pack(f"<{bands}H", *[kind] * bands)
    entries = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, bands, bits if bands == 1 else after + len(samples))]
    entries += [(259, 3, 1, 1), (262, 3, 1, int(not white_is_zero)), (273, 4, 1, after), (277, 3, 1, bands)]
    entries += [(278, 4, 1, 1), (279, 4, 1, len(samples))]
    entries += [(339, 3, bands, kind if bands == 1 else after + len(samples) + len(shape))]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, 10) + packed + bytes(4) + samples + shape + kinds


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (tiff(1, 16, samples=struct.pack("<2H", 0x1234, 65_535)), (0x12, 255)),
        (tiff(1, 16, samples=struct.pack("<2H", 0x1234, 65_535), white_is_zero=True), (255 - 0x12, 0)),
        (tiff(1, 12, samples=bytes((0x80, 0x0F, 0xFF))), (128, 255)),  # 2048 and 4095
        (b"P5\n2 1\n65535\n" + struct.pack(">2H", 257 * 7, 65_535), (7, 255)),
        (b"P5\n2 1\n1023\n" + struct.pack(">2H", 512, 1023), (128, 255)),
        (encoded(Image.fromarray(np.array([[0, 257 * 99]], np.uint16)), "PNG"), (0, 99)),
    ],
    ids=["tiff", "tiff, white is 0", "tiff of 12 bits", "pgm", "pgm of 10 bits", "png"],
)
def test_greyscale_of_more_than_8_bits_is_scaled_by_its_range(data: bytes, grey: tuple[int, int]) -> None:
    assert decode(data).tolist() == [[[value] * 3 for value in grey]]


def test_scaled_greyscale_keeps_its_picture_and_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    pil_images._say_scaled.cache_clear()
    np.testing.assert_array_equal(decode(PNGS["png I;16"]), np.repeat(PIXELS[..., :1], 3, 2))
    decode(PNGS["png I;16"])
    assert [record.getMessage() for record in caplog.records] == [
        "greyscale images of 0 to 65,535 are scaled to 8 bits; those that use less of it are dark"
    ]


@pytest.mark.parametrize(
    "data",
    [tiff(1, 32), tiff(1, 16, kind=2), tiff(1, 32, kind=3), b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.5, 1)],
    ids=["32 bits", "signed", "float", "pfm"],
)
def test_greyscale_of_unknown_range_is_bad(data: bytes) -> None:
    with pytest.raises(BadImageError, match="its black and white are not known; make it 8 bits"):
        decode(data)


def test_what_pil_logs_is_the_reason_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadImageError, match=r"^cannot be decoded: More samples per pixel than can be decoded: 13$"):
        decode(tiff(13, 8))
    with pytest.raises(BadImageError, match="a TIFF image that is damaged, or of a form that is not read"):
        decode(tiff(3, 32, kind=3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SHORT)
def test_picture_that_lacks_data_is_bad(name: str) -> None:
    with pytest.raises(BadImageError, match=r"\w"):
        decode(SHORT[name])


def test_damaged_image_data_of_a_png_is_bad() -> None:
    stored = encoded(RGB, "PNG", compress_level=0)
    at = len(stored) // 2
    with pytest.raises(BadImageError, match="checksum"):
        decode(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])


def test_missing_later_frame_loses_nothing() -> None:
    for name, frame in (("apng", PNGS["apng"]), ("gif animated", GIFS["gif animated"])):
        np.testing.assert_array_equal(decode(frame[: len(frame) * 3 // 4]), decode(WHOLE[name]))
