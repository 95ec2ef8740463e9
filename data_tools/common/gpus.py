"""GPUs: those of this machine as nvidia-smi lists them, and the peak rates of kinds of them."""

import re
import shutil
import subprocess
from dataclasses import dataclass

# Dense tensor-core peak of fp16/bf16 with fp32 sums, TFLOP/s, from the data sheets; by the words of the name that tell.
PEAK_TFLOPS = {
    "TITAN RTX": 65,
    "T4": 65,
    "V100": 125,
    "A100": 312,
    "A10": 125,
    "A10G": 70,
    "A40": 150,
    "L4": 121,
    "L40S": 362,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "RTX 6000 ADA": 364,
    "H100 PCIE": 756,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "B200": 2250,
    "MI300X": 1307,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as nvidia-smi has it; ``capability`` like (7, 5)."""

    name: str
    driver: str
    capability: tuple[int, int]


def installed_gpus() -> tuple[list[Gpu], str]:
    """The GPUs that nvidia-smi lists, and its error message, if any. Works without torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    query = "--query-gpu=name,driver_version,compute_cap"
    try:
        result = subprocess.run([program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return [], str(error)
    rows = re.findall(r"^(.+), ([\d.]+), (\d+)\.(\d+)$", result.stdout, re.MULTILINE)
    if rows:
        return [Gpu(name=name, driver=driver, capability=(int(a), int(b))) for name, driver, a, b in rows], ""
    return [], " ".join((result.stdout + result.stderr).split()) or f"nothing, exit {result.returncode}"


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where nvidia-smi lists no GPU."""
    gpus, _ = installed_gpus()
    return gpus[0].driver if gpus else None


def peak_tflops(name: str) -> float | None:
    """The tabulated peak of a GPU; None where it is not in the table."""
    found = [words for words in PEAK_TFLOPS if re.search(rf"\b{words}\b", name.upper().replace("-", " "))]
    return PEAK_TFLOPS[max(found, key=len)] if found else None
