"""Check a beton with only Python's standard library, as docs/FORMAT.md describes it, and show its first 20 samples.

    python3 examples/check_beton.py data/beton/train_160.beton

`python -m data_tools.verify --full` does that and more, for all samples, and quickly.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

P1, P2, P3, P4, P5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MASK = (1 << 64) - 1


def turn(x: int, by: int) -> int:
    return (x << by | x >> 64 - by) & MASK


def step(lane: int, word: int) -> int:
    return turn((lane + word * P2) & MASK, 31) * P1 & MASK


def xxh64(data: bytes) -> int:
    whole, lanes = len(data) // 32 * 32, [P1 + P2 & MASK, P2, 0, -P1 & MASK]
    for words in struct.iter_unpack("<4Q", data[:whole]):
        lanes = [step(lane, word) for lane, word in zip(lanes, words, strict=True)]
    total = P5
    if whole:
        total = sum(turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            total = ((total ^ step(0, lane)) * P1 + P4) & MASK
    total, at = total + len(data) & MASK, whole
    while at + 8 <= len(data):
        total = (turn(total ^ step(0, struct.unpack_from("<Q", data, at)[0]), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= len(data):
        total = (turn(total ^ struct.unpack_from("<I", data, at)[0] * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        total = turn(total ^ byte * P5 & MASK, 11) * P1 & MASK
    for shift, factor in ((33, P2), (29, P3), (32, 1)):
        total = (total ^ total >> shift) * factor & MASK
    return total


def main(arguments: Sequence[str]) -> int:
    name = arguments[0]
    manifest = json.loads(Path(name + ".json").read_text())
    checksums = Path(name + ".xxh64").read_bytes()
    with Path(name).open("rb") as file:
        _, fields, page_bytes, images, table = struct.unpack("<HHIQQ", file.read(24))
        file.seek(0)
        head = file.read(24 + fields * 1041 + images * 24)
        file.seek(table)
        allocation = file.read()
        assert (images, page_bytes) == (manifest["images"], manifest["page_bytes"])
        assert hashlib.sha256(checksums).hexdigest() == manifest["checksums_digest"]
        assert hashlib.sha256(head + allocation + checksums).hexdigest() == manifest["digest"]
        for sample, start, size in list(struct.iter_unpack("<QQQ", allocation))[:20]:
            file.seek(start)
            assert xxh64(file.read(size)) == struct.unpack_from("<Q", checksums, 8 * sample)[0]
            form = "<qBHHQ3x" if head[24] == 1 else "<BHHQ3xq"  # stock FFCV may have written the label first
            row = struct.unpack_from(form, head, 24 + fields * 1041 + 24 * sample)
            label, mode, width, height, _ = row if head[24] == 1 else (row[-1], *row[:-1])
            print(sample, "pixels" if mode else "JPEG", f"{width} x {height}", size, manifest["classes"][label])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
