"""JPEGs with bytes that libjpeg skips: superfluous ones change no pixel, what a corrupt stream left over is damage."""

import io
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from helpers.images import encoded, photo
from helpers.stored import OPTIONS, store
from PIL import Image

from data_tools.beton.format import PAGE_BYTES
from data_tools.convert.transcode import BadImageError, decode
from data_tools.native import codec

RGB = Image.fromarray(photo(1, 133, 90))
JPEGS = {
    "baseline": encoded(RGB, "JPEG", quality=90),
    "444": encoded(RGB, "JPEG", quality=95, subsampling=0),
    "progressive": encoded(RGB, "JPEG", quality=90, progressive=True),
    "restart": encoded(RGB, "JPEG", quality=90, restart_marker_blocks=7),
    "grey": encoded(RGB.convert("L"), "JPEG", quality=90),
    "cmyk": encoded(RGB.convert("CMYK"), "JPEG", quality=90),
}
JUNK = {"zeros": bytes(200), "text": b"junk" * 10, "FF 00": b"\xff\0" * 40, "FF": b"\xff" * 20, "a byte": b"\x55"}
KEEP = replace(OPTIONS, caps=(None,), keep=True, page_bytes=(PAGE_BYTES,))


def markers(data: bytes) -> Iterator[int]:
    """Where each marker after SOI is."""
    at = 2
    while at < len(data) - 1:
        if data[at] == 0xFF and data[at + 1]:
            yield at
            segment = data[at + 1] not in range(0xD0, 0xDA)
            at += 2 + (int.from_bytes(data[at + 2 : at + 4], "big") if segment else 0)
        else:
            at += 1


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", JPEGS)
def test_superfluous_bytes_before_any_marker_change_no_pixel(name: str, junk: str) -> None:
    data = JPEGS[name]
    clean = decode(data)
    for at in list(markers(data))[-30:]:
        np.testing.assert_array_equal(decode(data[:at] + JUNK[junk] + data[at:]), clean, f"before byte {at}")


def test_superfluous_bytes_in_several_places_change_no_pixel() -> None:
    for name in ("baseline", "progressive", "restart"):
        data, clean = JPEGS[name], decode(JPEGS[name])
        for at in (len(data) - 2, data.index(b"\xff\xda"), data.index(b"\xff\xdb")):
            data = data[:at] + b"some junk" + data[at:]
        np.testing.assert_array_equal(decode(data), clean)
        with Image.open(io.BytesIO(data)) as image:
            assert np.abs(np.asarray(image).astype(int) - clean).max() <= 2


def test_bogus_marker_before_a_restart_marker_changes_no_pixel() -> None:
    data = JPEGS["restart"]
    at = data.index(b"\xff\xd3")
    np.testing.assert_array_equal(decode(data[:at] + b"ab\xff\x05cd" + data[at:]), decode(data))


@pytest.mark.parametrize("name", ["baseline", "progressive", "restart"])
def test_data_left_over_by_a_corrupt_stream_is_damage(name: str) -> None:
    """Bytes added within coded data shift all that follows. No decoder can tell all such files from whole ones, but
    of those where libjpeg reports nothing but skipped bytes, most are refused."""
    data, draw = JPEGS[name], random.Random(0)
    skipping = accepted = 0
    start = data.index(b"\xff\xda") + 14
    while skipping < 30:
        at = draw.randrange(start, len(data) * 3 // 4)
        damaged = data[:at] + draw.randbytes(4) + data[at:]
        try:
            codec.decode(damaged)
        except codec.BytesSkippedError:
            skipping += 1
        except codec.NativeError:
            continue
        else:
            continue
        try:
            accepted += not np.array_equal(decode(damaged), decode(data))
        except BadImageError as error:
            assert "left over" in str(error) or "Corrupt" in str(error)
    assert accepted <= 10, f"{accepted} of 30"


def test_superfluous_bytes_do_not_hide_a_cut() -> None:
    data = JPEGS["baseline"]
    at = data.index(b"\xff\xdb")
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + b"\xff\xd9"):
        with pytest.raises(BadImageError, match=r"Premature|premature"):
            decode(damaged[:at] + b"junk" + damaged[at:])


def test_jpeg_with_superfluous_bytes_is_encoded_anew() -> None:
    """A loader takes the skipped bytes for damage, so the file's own bytes are not kept."""
    data = JPEGS["baseline"]
    odd = data[:-2] + bytes(200) + data[-2:]
    assert store(data, "c/x", KEEP)[0].kept
    stored = store(odd, "c/x", KEEP)[0]
    assert not stored.kept
    codec.decode(stored.data)
    assert bytes(stored.data) == bytes(store(data, "c/x", replace(KEEP, keep=False))[0].data)
    with pytest.raises(codec.BytesSkippedError):
        codec.decode(odd)


def test_bomb_behind_superfluous_bytes_is_refused_by_its_size() -> None:
    data = JPEGS["baseline"]
    at = data.index(b"\xff\xc0")
    huge = data[: at + 5] + b"\xff\x00\xff\x00" + data[at + 9 :]
    with pytest.raises(BadImageError, match="pixels"):
        decode(huge[:at] + b"junk" + huge[at:])
