"""The commands and code that the documents show, and a folder with tiny data under their names to run them in."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from pathlib import Path

from helpers import ROOT
from helpers.images import META_MAT, WNIDS, devkit, inner_tar, jpeg, photo, sorted_files, write_folder, write_tar
from helpers.recipes import write_recipe
from helpers.stock import write_stock_sets

RESULTS = ROOT.glob("benchmarks/results/*.md")
DOCUMENTS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *sorted(RESULTS))
}
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every line of an indented block, and in backticks each `.venv/bin/…` with arguments."""
    prose = FENCED.sub("", text)
    blocks = "".join(re.findall(r"(?:^ {4,}\S.*\n?)+", prose, re.MULTILINE))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines() + re.findall(r"`(\.venv/bin/[^`\s]+\s[^`]+)`", prose)
    return [" ".join(re.sub(r"\s{2,}# .*", "", line).split()) for line in lines]


def code(text: str) -> str:
    """Every fenced block of Python, one after the other. A fenced block without a language is to be read, not run."""
    blocks = FENCED.findall(text)
    assert {language for _, language, _ in blocks} <= {"", "python"}
    return "".join(textwrap.dedent(block) for _, language, block in blocks if language)


# ---------------------------------------------------------------------------------------------- tiny data
TITAN8_PHASES = [
    {"epochs": [epoch, epoch + 1], "px": px, "batch_per_gpu": batch, "data": data, "val_batch": 4}
    | {"rectangular_val": data == "full", "lr": [{"epochs": [epoch, epoch + 1], "from": 0.01, "to": 0.001}]}
    for epoch, (px, batch, data) in enumerate(((32, 8, 160), (48, 8, 320), (64, 4, "full")))
]
LINKED = ("data_tools", "training", "examples", "docs", "Makefile", "pyproject.toml", "uv.lock", "setup.py")


def make_project(folder: Path, sorted_tar: Path) -> None:
    """The project as a reader has it, with tiny data sets of every kind, and titan8.yaml cut down to a CPU's size."""
    for name in (*LINKED, "write_datasets.py", "train_imagenet.py"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "rn50_configs", folder / "rn50_configs")
    titan8 = folder / "rn50_configs" / "titan8.yaml"
    write_recipe(titan8, TITAN8_PHASES, run={"dir": "runs/titan8"}, schedule={"gpus": 8})
    (folder / "imagenet-data-sorted.tar").symlink_to(sorted_tar)
    write_images(folder)
    write_ilsvrc_archives(folder)
    write_other_layouts(folder)
    write_parquet(folder / "imagenet-1k" / "data")
    write_stock_sets(folder / "data" / "ffcv")
    (folder / "data" / "demo").mkdir(parents=True)
    write_tar(folder / "data" / "demo" / "sample.tar", sorted_files(per_class=17, val_per_class=3, prefix="sample"))
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "made").touch()  # newer than all that it is made of, so make leaves it alone


def write_images(folder: Path) -> None:
    files = {name.partition("/")[2]: data for name, data in sorted_files().items()}
    small = {
        f"imagenet-sz/{px}/{name}": jpeg(photo(at, px + 20, px)) for px in (160, 320) for at, name in enumerate(files)
    }
    write_folder(folder / "imagenet", files)
    write_folder(folder, small)
    write_tar(folder / "imagenet-sz.tar", small)


def write_other_layouts(folder: Path) -> None:
    """ImageNet as Kaggle has it, tiny-imagenet, and data sets whose splits have other names or are links."""
    images = [(f"{wnid}_{at}.JPEG", wnid, jpeg(photo(at))) for wnid in WNIDS[:3] for at in range(2)]
    sorted_images = {f"{wnid}/{name}": data for name, wnid, data in images}
    numbered = {f"ILSVRC2012_val_{at + 1:08d}": each for at, each in enumerate(images[::2])}
    answers = "".join(f"{name},{wnid} 1 2 3 4\n" for name, (_, wnid, _) in numbered.items())
    kaggle = {f"ILSVRC/Data/CLS-LOC/train/{name}": data for name, data in sorted_images.items()}
    kaggle |= {f"ILSVRC/Data/CLS-LOC/val/{name}.JPEG": data for name, (_, _, data) in numbered.items()}
    kaggle |= {"LOC_val_solution.csv": f"ImageId,PredictionString\n{answers}".encode()}
    tiny = {f"train/{wnid}/images/{name}": data for name, wnid, data in images}
    tiny |= {f"val/images/{name}": data for name, _, data in images}
    tiny |= {"val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\n" for name, wnid, _ in images).encode()}
    write_folder(folder / "imagenet-object-localization-challenge", kaggle)
    write_folder(folder / "tiny-imagenet-200", tiny)
    for name, val in (("imagenette2-320", "val"), ("train-and-test", "test"), ("store", "val")):
        write_folder(
            folder / name,
            {f"{split}/{each}": sorted_images[each] for split in ("train", val) for each in sorted_images},
        )
    write_folder(folder / "train-alone", {f"train/{name}": data for name, data in sorted_images.items()})
    (folder / "linked").mkdir()
    for split in ("train", "val"):
        (folder / "linked" / split).symlink_to(folder / "store" / split)


def write_ilsvrc_archives(folder: Path) -> None:
    train = {wnid: {f"{wnid}_{at}.JPEG": jpeg(photo(at)) for at in range(3)} for wnid in WNIDS[:3]}
    write_tar(folder / "ILSVRC2012_img_train.tar", {f"{wnid}.tar": inner_tar(each) for wnid, each in train.items()})
    val = {f"ILSVRC2012_val_{at:08d}.JPEG": jpeg(photo(at)) for at in range(1, 4)}
    write_tar(folder / "ILSVRC2012_img_val.tar", val)
    devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [2, 1, 3], synsets=META_MAT)


def write_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        image = [{"bytes": jpeg(photo(at)), "path": f"n0144076{at % 2}_{at}.JPEG"} for at in range(4)]
        table = pyarrow.table({"image": image, "label": [at % 2 for at in range(4)]})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
