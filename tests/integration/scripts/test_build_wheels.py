"""The wheels of `make wheels` on a machine that has PyTorch, but no network, compiler, OpenCV or JPEG library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.recipes import ONE_EPOCH, write_recipe

MAX_MIB = 64
PYTHONS = ("3.11", "3.12", "3.13")
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
# What Python, the shell and every manylinux wheel may expect of a machine; nothing else of LIBRARIES stays.
EXPECTED = (
    *("ld-linux", "libc.", "libm.", "libdl.", "librt.", "libpthread.", "libutil.", "libresolv.", "libgcc_s.", "libz."),
    *("libstdc++.", "libffi.", "libssl.", "libcrypto.", "libbz2.", "liblzma.", "libsqlite3.", "libuuid.", "libcrypt."),
    *("libexpat.", "libselinux.", "libpcre2-8.", "libtinfo.", "libreadline.", "libncursesw."),
)
LOAD = """
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader
from ffcv.transforms import ToTensor
from training.loader import TrainLoader

path = "betons/train_160.beton"
pipelines = {
    "image": [RandomResizedCropRGBImageDecoder((64, 64)), ToTensor()],
    "label": [IntDecoder(), ToTensor()],
}
for loader in (TrainLoader(path, px=64, batch=8), Loader(path, batch_size=8, num_workers=1, pipelines=pipelines)):
    print(sum(len(labels) for _, labels in loader))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not LIBRARIES.is_dir(), reason="needs root, to hide what is installed"),
    pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on the PATH"),
]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=here | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(python: str) -> bool:
    found = subprocess.run(["uv", "python", "find", "--no-python-downloads", python], capture_output=True)
    return found.returncode == 0


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheels")
    run(ROOT / "scripts" / "build_wheels.sh", out, PYTHONS=" ".join(filter(installed, PYTHONS)))
    assert sum(wheel.stat().st_size for wheel in out.iterdir()) < MAX_MIB * 2**20
    return out


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of system libraries with those of EXPECTED alone."""
    folder = tmp_path_factory.mktemp("libraries")
    for library in LIBRARIES.iterdir():
        if library.name.startswith(EXPECTED) and library.is_file():
            shutil.copy(library, folder / library.name)
    return folder


@pytest.mark.parametrize("python", PYTHONS)
def test_installed_without_network_or_compiler_they_convert_load_and_train(
    python: str, wheels: Path, bare: Path, sorted_tar: Path, tmp_path: Path
) -> None:
    if not installed(python):
        pytest.skip(f"no Python {python} here")
    image = pytorch_image(tmp_path / "image", python)
    write_recipe(tmp_path / "tiny.yaml", ONE_EPOCH, data={"dir": "betons"}, run={"dir": "run"})
    (tmp_path / "load.py").write_text(LOAD)
    (tmp_path / "empty").mkdir()
    printed = run(
        *("unshare", "--mount", "--net", "bash", "-euc"),
        f"""
        mount --bind '{tmp_path}/empty' /usr/lib/gcc
        mount --bind '{bare}' {LIBRARIES}
        {image} -m pip install --quiet --no-index --find-links='{wheels}' imagenet18-ffcv >&2
        {image} -m pip install --quiet --no-index --find-links='{wheels}' pytest-xdist >&2
        {image} -m pytest --version --numprocesses 1 >&2
        {image} -m write_datasets --data.source='{sorted_tar}' --data.out=betons --data.caps=160 >&2
        {image} load.py
        {image} -m train_imagenet --config-file tiny.yaml >&2
        {image} -m data_tools.doctor betons >&2
        """,
        cwd=tmp_path,
    )
    assert printed.split() == ["40", "40"]
    assert len((tmp_path / "run" / "epochs.csv").read_text().splitlines()) == 2


def pytorch_image(folder: Path, python: str) -> Path:
    """Python of an environment with PyTorch and what the wheels leave out, in the versions of uv.lock."""
    lock = folder.with_suffix(".txt")
    lock.write_text(run("uv", "export", "-q", "--locked", "--no-hashes", "--no-emit-project", "--no-dev", cwd=ROOT))
    run("uv", "venv", "-q", "--no-python-downloads", "--python", python, folder)
    packages = ("pip", "torch", "torchvision", "numba", "opencv-python-headless", "matplotlib")
    run("uv", "pip", "install", "-q", "--python", folder / "bin" / "python", "-c", lock, *packages)
    return folder / "bin" / "python"
