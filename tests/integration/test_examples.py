"""The example on a folder that is not ImageNet, and the code of docs/FROM_PYTHON.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from helpers.images import sorted_files, write_folder

from data_tools.beton.manifest import read_manifest
from training.runlog.epoch_table import read_epochs


def run(*arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_folder_is_converted_and_trained_on(tmp_path: Path) -> None:
    files = sorted_files(classes=3, per_class=12, val_per_class=4, prefix="mine", val="val")
    names = {f"n{1440764 + 17 * label:08d}": name for label, name in enumerate(("cups", "hats", "shoes of mine"))}
    pictures = {re.sub(r"n\d{8}(?=/)", lambda wnid: names[wnid[0]], name): data for name, data in files.items()}
    write_folder(tmp_path / "pictures", pictures)
    printed = run("examples/any_folder.py", str(tmp_path / "pictures"), str(tmp_path / "out"))
    assert read_manifest(tmp_path / "out/betons/train_96.beton").classes == tuple(names.values())
    rows = read_epochs(tmp_path / "out" / "run")
    assert [row.px for row in rows] == [48, 48, 80, 80]
    assert f"top-1 {rows[-1].top1:.2f} %" in printed


def test_code_of_from_python_runs(betons: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/FROM_PYTHON.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "beton").symlink_to(betons)
    printed = run("-c", "".join(blocks) + "print(logits.shape, len(shapes))", cwd=tmp_path).splitlines()
    assert len([line for line in printed if line.startswith("torch.Size([8, 3, 128, 128]) torch.uint8 n0144")]) == 5
    rate = 0.1 * (1 - (2 * 5 + 1) / 15)
    assert (printed[-2].split()[0], round(float(printed[-2].split()[1]), 9)) == ("160", round(rate, 9))
    assert printed[-1] == "torch.Size([8, 4]) 2"
