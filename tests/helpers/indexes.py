"""What an index of a source holds, to compare sources of different kinds."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.sources.index import Index


def indexed_images(index: Index) -> dict[tuple[str, int | None], list[tuple[int, str, bytes]]]:
    """(label, key, bytes) of every image, read at its place."""
    out = {}
    for split_index in index.split_indexes:
        found = []
        for sample in range(len(split_index)):
            file, offset, length = split_index.places[sample].tolist()
            path = index.files[file].path
            if index.files[file].kind == "folder":
                path = f"{path}/{split_index.name(sample).rpartition('/')[2]}"
            content = Path(path).read_bytes()[offset : offset + length]
            found.append((int(split_index.labels[sample]), split_index.key(sample), content))
        out[split_index.split, split_index.cap] = found
    return out


def left_out(index: Index) -> dict[str, int]:
    """How many of each kind are left out, each with an example."""
    found = (re.fullmatch(r"(.+) left out: ([\d,]+), e\.g\. .+", note, re.DOTALL) for note in index.notes)
    return {match[1]: int(match[2].replace(",", "")) for match in found if match}


FILES = {
    "x/train/n02/b.JPEG": b"2b",
    "x/train/n01/b.JPEG": b"1b..",
    "x/validation/n02/v.JPEG": b"2v",
    "x/train/n01/a.JPEG": b"1a",
    "x/train/n02/Z.JPEG": b"2Z" * 400,
}

WANTED = {
    ("train", None): [
        (0, "n01/a.JPEG", b"1a"),
        (0, "n01/b.JPEG", b"1b.."),
        (1, "n02/Z.JPEG", b"2Z" * 400),
        (1, "n02/b.JPEG", b"2b"),
    ],
    ("val", None): [(1, "n02/v.JPEG", b"2v")],
}
