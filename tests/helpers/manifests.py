"""A manifest to write beside a file that stands for a beton."""

from __future__ import annotations

from data_tools.beton.manifest import MANIFEST_VERSION, Manifest, Skipped, Source

MANIFEST = Manifest(
    version=MANIFEST_VERSION,
    beton="train_160.beton",
    split="train",
    cap=160,
    side="shorter",
    filter="area",
    quality=90,
    seekable=True,
    mode="jpg",
    raw_share=0.0,
    seed=0,
    originals=False,
    images=3,
    bytes=100,
    page_bytes=1 << 23,
    modes={"jpg": 3, "raw": 0, "original": 0},
    digest="d",
    checksums_digest="c",
    source_digest="s",
    source_state={"archive": "t"},
    classes=("n01", "n02", "größe"),
    sources=(Source(name="a.tar", bytes=5),),
    skipped=(Skipped(image="n01/x.JPEG", reason="empty file"),),
    versions={"ffcv": "1.0.2"},
)
