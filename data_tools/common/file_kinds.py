"""What a file is, by its name and its first bytes."""

import re
import stat
from collections.abc import Callable, Iterable

START_BYTES = 512  # enough to tell every kind

_PICTURES = (  # that are read
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"II\*\0|MM\0\*", "a TIFF image"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "a BMP image"),  # two letters alone could be text
)
_OTHER_PICTURES = (
    (rb"....ftyp(?:.{4})*?(?:avif|avis)", "an AVIF image"),
    (rb"....ftyp(?:.{4})*?(?:heic|heix|hevc|heim|heis|mif1|msf1)", "a HEIC image"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", "a JPEG XL image"),
)
_ARCHIVES = (
    (rb"\x1f\x8b", "compressed with gzip", "gunzip"),
    (rb"\xfd7zXZ\0", "compressed with xz", "unxz"),
    (rb"BZh[1-9]", "compressed with bzip2", "bunzip2"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", "unlz4"),
    (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive", "unzip"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack"),
    (rb"Rar!\x1a\x07", "a RAR archive", "unpack"),
)
# What file managers, network drives and archivers leave behind.
_JUNK_FOLDERS = {"@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_IMAGE_SUFFIXES = {"jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "tif", "tiff", "bmp", "dib", "ppm", "pgm", "pbm"}
_IMAGE_SUFFIXES |= {"pnm", "avif", "heic", "heif", "jp2", "j2k", "jpx", "jxl"}
_TEXT_SUFFIXES = {"xml", "txt", "json", "csv"}  # beside half a million images there may be as many of these


def has_image_name(name: str) -> bool:
    """Whether the suffix is a picture's, even of a kind that is not read, so that the error can name it."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem and dot) and suffix.lower() in _IMAGE_SUFFIXES


def is_junk_folder(parts: Iterable[str]) -> bool:
    """Whether one of these folders was made by some program for its own use."""
    return not _JUNK_FOLDERS.isdisjoint(parts)


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether one of these parts of a path begins with a dot, or is such a folder."""
    return any(part.startswith(".") or part in _JUNK_FOLDERS for part in parts)


def is_image(name: str, read: Callable[[int], bytes]) -> bool:
    """Whether the name or the content is a picture's. `read` gives the first bytes, as many as are asked for.

    What is named like a picture counts as one whatever it holds: it may be damaged. Text is not read.
    """
    if is_hidden([name]) or name.rpartition(".")[2].lower() in _TEXT_SUFFIXES:
        return False
    return has_image_name(name) or bool(picture_kind(read(START_BYTES)))


def picture_kind(start: bytes) -> str:
    """`a PNG image` and the like; empty if it does not begin like a picture."""
    return _named(start, _PICTURES) or unread_picture_kind(start)


def unread_picture_kind(start: bytes) -> str:
    """The kind of a picture that is not read."""
    return _named(start, _OTHER_PICTURES)


def archive_kind(start: bytes) -> tuple[str, str]:
    """What a compressed file is, and the program that unpacks it; empty for others."""
    for pattern, kind, program in _ARCHIVES:
        if re.match(pattern, start, re.DOTALL):
            return kind, program
    return "", ""


def special_kind(mode: int) -> str:
    """The kind of what is neither a file nor a folder, by its `st_mode`; empty for files and folders."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "")


def _named(start: bytes, kinds: tuple[tuple[bytes, str], ...]) -> str:
    return next((kind for pattern, kind in kinds if re.match(pattern, start, re.DOTALL)), "")
