"""A damaged file in Inductor's cache is a line that names the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

COMPILE = """
import sys
import torch
from data_tools.common.errors import program
from training.config.train_config import Train
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import optimizer

@program("compile")
def main(argv):
    cpu, options = torch.device("cpu"), Train(compile="default")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    loss = LossModule(Predictor(model.to(memory_format=torch.channels_last), torch.float32, cpu), 0.0)
    print(TrainStep(loss, optimizer.build(model, options, highest_lr=0.1), options).prepare(8, 2, cpu))
    return 0

sys.exit(main([]))
"""


def compiled(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_damaged_file_of_inductors_cache_is_a_line_that_names_the_folder(tmp_path: Path) -> None:
    assert compiled(tmp_path).stdout == "True\n"
    assert compiled(tmp_path).stdout == "False\n"  # it was in the cache
    for kind in ("*.so", "*.py"):
        whole = {path: path.read_bytes() for path in tmp_path.rglob(kind)}
        assert whole
        for path, content in whole.items():
            path.write_bytes(content[: len(content) // 2] if kind == "*.py" else bytes(len(content)))
        done = compiled(tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("compile: error: torch.compile: ") == 1
        assert f"remove the cache {tmp_path}" in done.stderr
        assert "Traceback" not in done.stderr
        for path, content in whole.items():
            path.write_bytes(content)
