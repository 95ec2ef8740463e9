"""The doctor on this machine, and with parts of its installation broken."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def doctor(*arguments: str, **environment: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-m", "data_tools.doctor", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_findings_on_this_machine(betons: Path) -> None:
    status, lines, err = doctor(str(betons))
    assert status == int(any(line.startswith("FAIL") for line in lines)), err
    assert all(re.match(r"OK   \S|(WARN|FAIL) \S.*: \S", line) for line in lines)
    text = "\n".join(lines)
    for what in ("OK   ffcv 1.", "native decoder with libjpeg-turbo", "OpenCV", "cores may be used", "/dev/shm"):
        assert what in text
    assert "train_160.beton: 40 images of 4 classes" in text


def test_broken_libraries_are_one_finding_each(tmp_path: Path) -> None:
    """In place of the modules: what a broken installation raises."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open\\nshared object file')")
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / "numba.py").write_text("raise RuntimeError('numba needs another numpy')")
    status, lines, err = doctor(PYTHONPATH=str(tmp_path))
    assert (status, err) == (1, "")
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["torch", "ffcv", "OpenCV", "numba"]
    assert "(OSError: libcudart.so.13: cannot open shared object file): `make env`" in failed[0]
    assert "pip install --force-reinstall opencv-python-headless" in failed[2]


def test_numba_threading_layer_that_aborts_is_a_warning() -> None:
    code = "import numba; from data_tools.doctor import software_checks; print(software_checks.numba(numba))"
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("WARN") and "libgomp1" in done.stdout, done.stderr
