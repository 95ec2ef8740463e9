"""The example on a folder that is not ImageNet."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from helpers.images import sorted_files, write_folder

from data_tools.beton.manifest import read_manifest
from training.runlog.epoch_table import read_epochs


def test_any_folder_is_converted_and_trained_on(tmp_path: Path) -> None:
    files = sorted_files(classes=3, per_class=12, val_per_class=4, prefix="mine", val="val")
    names = {f"n{1440764 + 17 * label:08d}": name for label, name in enumerate(("cups", "hats", "shoes of mine"))}
    pictures = {re.sub(r"n\d{8}(?=/)", lambda wnid: names[wnid[0]], name): data for name, data in files.items()}
    write_folder(tmp_path / "pictures", pictures)
    command = [sys.executable, "examples/any_folder.py", str(tmp_path / "pictures"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out/betons/train_96.beton").classes == tuple(names.values())
    rows = read_epochs(tmp_path / "out" / "run")
    assert [row.px for row in rows] == [48, 48, 80, 80]
    assert f"top-1 {rows[-1].top1:.2f} %" in done.stdout
