"""Checks that torch, driver, GPUs, FFCV and the native code are installed and fit each other."""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from types import ModuleType

from data_tools.common.gpus import Gpu
from data_tools.doctor.machine_checks import Finding, judged

ENVIRONMENT = "`make env` (or conda env create -f environment.yml) makes the environment"
SYSTEM_PACKAGES = "g++ pkg-config libopencv-dev libturbojpeg0-dev libjpeg-dev python3-dev"
PYTHONS = ((3, 11), (3, 13))
DRIVERS = {12: "525", 13: "580"}  # the first NVIDIA driver that runs programs of that CUDA
OLDER_CARDS = "docs/INSTALL.md has the torch for older cards and drivers"


def python() -> Finding:
    is_fine = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    remedy = f"FFCV 1.0.2 runs on 3.11 to 3.13; {ENVIRONMENT}"
    return judged(is_fine, f"Python {sys.version.split()[0]}", remedy, "FAIL")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs; None without a driver."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def gpus(found: Sequence[Gpu], error: str, cuda: tuple[int, int] | None, torch: ModuleType | None) -> Iterator[Finding]:
    """Driver and cards, and whether this torch can use them."""
    if error:
        yield Finding("FAIL", f"nvidia-smi says {error!r}", f"install driver {DRIVERS[13]} or newer, and reboot")
    elif not found:
        remedy = "training uses the CPU; if there is a GPU, `nvidia-smi` must list it (docker run --gpus all)"
        yield Finding("WARN", "no NVIDIA GPU is visible here", remedy)
    if not found:
        return
    newest = f" (CUDA up to {cuda[0]}.{cuda[1]})" if cuda else ""
    driver = f"driver {found[0].driver}{newest}"
    built = str(torch.version.cuda) if torch is not None and torch.version.cuda else ""
    if torch is not None and not built:
        yield Finding("FAIL", f"torch {torch.__version__} is built without CUDA", ENVIRONMENT)
    elif built and cuda and cuda[0] < int(built.split(".")[0]):
        wanted = DRIVERS.get(int(built.split(".")[0]), "a newer one")
        remedy = f"install driver {wanted} or newer; {OLDER_CARDS}"
        yield Finding("FAIL", f"{driver}, but torch needs CUDA {built}", remedy)
    else:
        yield Finding("OK", driver)
    for number, each in enumerate(found):
        yield _gpu(number, each, torch.cuda.get_arch_list() if torch is not None and built else None)
    if torch is not None and built and torch.cuda.device_count() < len(found):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "see the lines above"
        yield Finding("WARN", f"torch sees {torch.cuda.device_count()} of {len(found)} GPUs", why)


def _gpu(number: int, gpu: Gpu, built_for: Sequence[str] | None) -> Finding:
    what = f"GPU {number}: {gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if built_for is None or supports(built_for, gpu.capability):
        return Finding("OK", what)
    return Finding("FAIL", f"{what}, and this torch is for {', '.join(built_for)}", OLDER_CARDS)


def supports(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for these architectures (sm_86: machine code, compute_90: PTX) runs on a card.

    Machine code runs on newer cards of its own generation; PTX, which the driver compiles, on any newer card.
    """
    for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(built_for)):
        minimum = int(digits[:-1]), int(digits[-1])
        if minimum <= capability and (kind == "compute" or minimum[0] == capability[0]):
            return True
    return False


def load(name: str) -> tuple[ModuleType | None, str]:
    """The module, or None and a line that says why it cannot be imported."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # a broken library may raise anything
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]


def pip() -> str:
    """What installs packages here: an environment that uv made has no pip."""
    if importlib.util.find_spec("pip") is not None:
        return "pip"
    return "uv pip" if shutil.which("uv") else ".tools/bin/uv pip"  # where `make env` puts it


def torch(module: ModuleType | None, error: str) -> Finding:
    if module is None:
        return Finding("FAIL", f"torch cannot be imported ({error})", ENVIRONMENT)
    kind = f"for CUDA {module.version.cuda}" if module.version.cuda else "CPU"
    return Finding("OK", f"torch {module.__version__}, {kind}")


def libraries() -> Iterator[Finding]:
    """FFCV, which only its own loaders need; the project's own decoder, which everything needs; what FFCV needs."""
    headless = f"{pip()} uninstall opencv-python, then {pip()} install --force-reinstall opencv-python-headless"
    module, error = load("ffcv")
    if module is not None:
        yield Finding("OK", f"ffcv {importlib.metadata.version('ffcv')}")
    else:
        remedy = f"install {SYSTEM_PACKAGES}, then {ENVIRONMENT}"
        if "libGL" in error:
            remedy = headless
        elif "distutils" in error:
            remedy = f"{pip()} install setuptools, which has it from Python 3.12 on"
        yield Finding("FAIL", f"ffcv cannot be imported ({error})", remedy)
    module, error = load("data_tools.native.codec")
    if module is not None:
        what = f"native decoder with {module.libjpeg_version()}, vectors: {module.vectors()}"
        is_fine = module.vectors() != "baseline" or not sysconfig.get_platform().endswith("x86_64")
        yield judged(is_fine, what, "this processor or compiler has no AVX2, so the loader takes more cores")
    else:
        remedy = f"install g++ libjpeg-dev, then {ENVIRONMENT}"
        yield Finding("FAIL", f"the native decoder cannot be loaded ({error})", remedy)
    module, error = load("cv2")
    if module is not None:
        yield Finding("OK", f"OpenCV {module.__version__}")
    else:
        yield Finding("FAIL", f"OpenCV cannot be imported ({error})", headless)
    module, error = load("numba")
    yield numba(module) if module is not None else Finding("FAIL", f"numba cannot be imported ({error})", ENVIRONMENT)


def numba(module: ModuleType) -> Finding:
    """The threading layer, which decides whether two stock FFCV loaders can be iterated at once."""
    what = f"numba {module.__version__}"
    try:
        module.set_num_threads(1)  # starts the layer
        layer = module.threading_layer()
    except ValueError as unavailable:  # none of those that NUMBA_THREADING_LAYER allows
        return Finding("WARN", f"{what} has no threading layer ({unavailable})", "unset NUMBA_THREADING_LAYER")
    remedy = f"two FFCV loaders at once would abort; install libgomp1 (omp), or {pip()} install tbb"
    return judged(layer != "workqueue", f"{what}, threading layer {layer}", remedy)
