"""The commands that the documents show, and a folder to run them in: small stand-ins under the names that are shown."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.images import (
    META_MAT,
    WNIDS,
    devkit,
    inner_tar,
    jpeg,
    photo,
    sorted_files,
    write_folder,
    write_tar,
)

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))


@dataclass(frozen=True, slots=True)
class Shown:
    """A command, or a block of Python, as `document` has it."""

    document: str
    text: str
    is_code: bool = False


def shown(document: str) -> Iterator[Shown]:
    """Every line of an indented block, every fenced block of Python, in backticks each `.venv/bin/…` with arguments.

    A fenced block without a language is what a program printed.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert language in ("", "python"), f"{document}: what is a block of {language}?"
        if language:
            yield Shown(document, code, is_code=True)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^ {4,}\S.*\n?)+", prose, re.MULTILINE):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield Shown(document, re.sub(r"\s{2,}# .*", "", line).strip())
    for inline in re.findall(r"`(\.venv/bin/[^`\s]+\s[^`]+)`", prose):
        yield Shown(document, " ".join(inline.split()))


def make_targets(document: str) -> set[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    typed = re.findall(r"(?:^ {4}|`)make ((?:[a-z]+ )*[a-z]+)", text, re.MULTILINE)
    return {target for line in typed for target in line.split()}


# ---------------------------------------------------------------------------------------------- stand-ins
RECIPE = """
run: {dir: runs/titan8}
model: {arch: resnet18}
train: {amp: fp32}
dist: {device: cpu}
data: {workers: 1}
schedule:
  gpus: 8
  phases:
    - {epochs: [0, 1], px: 32, batch_per_gpu: 8, data: 160, lr: [{epochs: [0, 1], from: 0.01, to: 0.02}]}
    - {epochs: [1, 2], px: 48, batch_per_gpu: 8, data: 320, lr: [{epochs: [1, 2], from: 0.02, to: 0.01}]}
    - {epochs: [2, 3], px: 64, batch_per_gpu: 4, data: full, rectangular_val: true, val_batch: 4,
       lr: [{epochs: [2, 3], from: 0.01, to: 0.001}]}
"""
LINKED = ("data_tools", "training", "examples", "docs", "Makefile", "pyproject.toml", "uv.lock", "setup.py")


def furnish(folder: Path, sorted_tar: Path) -> None:
    """The project as its reader has it: tiny data sets of every kind, and titan8 cut down to a CPU's size."""
    for name in (*LINKED, "write_datasets.py", "train_imagenet.py"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "rn50_configs", folder / "rn50_configs")
    (folder / "rn50_configs" / "titan8.yaml").write_text(RECIPE)
    (folder / "imagenet-data-sorted.tar").symlink_to(sorted_tar)
    _sources(folder)
    _official(folder)
    _parquet(folder / "imagenet-1k" / "data")
    (folder / "data" / "demo").mkdir(parents=True)
    write_tar(folder / "data" / "demo" / "sample.tar", sorted_files(per_class=17, val_per_class=3, prefix="sample"))
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "made").touch()  # newer than all that it is made of, so make leaves it alone


def _sources(folder: Path) -> None:
    files = {name.partition("/")[2]: data for name, data in sorted_files().items()}
    small = {
        f"imagenet-sz/{px}/{name}": jpeg(photo(at, px + 20, px)) for px in (160, 320) for at, name in enumerate(files)
    }
    write_folder(folder / "imagenet", files)
    write_folder(folder, small)
    write_tar(folder / "imagenet-sz.tar", small)


def _official(folder: Path) -> None:
    train = {wnid: {f"{wnid}_{at}.JPEG": jpeg(photo(at)) for at in range(3)} for wnid in WNIDS[:3]}
    write_tar(folder / "ILSVRC2012_img_train.tar", {f"{wnid}.tar": inner_tar(each) for wnid, each in train.items()})
    val = {f"ILSVRC2012_val_{at:08d}.JPEG": jpeg(photo(at)) for at in range(1, 4)}
    write_tar(folder / "ILSVRC2012_img_val.tar", val)
    devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [2, 1, 3], synsets=META_MAT)


def _parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        image = [{"bytes": jpeg(photo(at)), "path": f"n0144076{at % 2}_{at}.JPEG"} for at in range(4)]
        table = pyarrow.table({"image": image, "label": [at % 2 for at in range(4)]})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
