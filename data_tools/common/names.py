"""Names of files and classes as text, whatever their bytes are.

A name is its bytes as UTF-8, with a byte that is not UTF-8 as a lone surrogate (PEP 383: `caf\\xe9` is "caf\\udce9"),
wherever it comes from and whatever the locale is. Python gives paths and arguments in the encoding of the locale.
"""

import os


def name_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def name_bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as JSON can contain
        return name.encode("utf-8", "surrogatepass")


def from_path(path: str) -> str:
    """A path, or a part of one, as a name."""
    return name_of(os.fsencode(path))


def to_path(name: str) -> str:
    """A name as a path that can be opened."""
    return os.fsdecode(name_bytes(name))
