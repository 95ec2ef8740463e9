"""Checks of the machine: cores, memory, disk, limits, and whether the betons fit into memory."""

import os
import resource
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.beton.manifest import read_manifest, unadopted
from data_tools.common.errors import UserError
from data_tools.common.resources import available_memory, usable_cores
from data_tools.common.runtime import WAITING

CORES_PER_GPU = 2  # a core makes some 2,200 crops of 224 px a second (docs/PERFORMANCE.md)
MIN_DESCRIPTORS = 1024
MIN_SHARED_MEMORY = 1 << 30
MIN_DISK = 5 << 30
SHM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check, and unless it is ``OK`` what to do."""

    level: Literal["OK", "WARN", "FAIL"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<5}{self.what}{': ' if self.remedy else ''}{self.remedy}"


def judged(is_fine: bool, what: str, remedy: str, otherwise: Literal["WARN", "FAIL"] = "WARN") -> Finding:
    return Finding("OK", what) if is_fine else Finding(otherwise, what, remedy)


def cores(gpus: int) -> Finding:
    """Whether the cores that this process may use can feed ``gpus`` GPUs."""
    usable, total = usable_cores(), os.cpu_count() or 1
    is_fine, what = usable >= CORES_PER_GPU * max(gpus, 1), f"{usable} of {total} cores may be used"
    if not is_fine:
        what += f", for {gpus or 'no'} GPU{'s' if gpus != 1 else ''}"
    remedy = f"the loader needs {CORES_PER_GPU} per GPU; allow more (docker --cpus, SLURM --cpus-per-task)"
    return judged(is_fine, what, remedy)


def waiting_threads() -> Finding:
    """Whether OpenMP's threads leave their cores to others while they wait, which is the default of all programs."""
    chosen = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    if chosen == ["OMP_WAIT_POLICY=passive"]:
        return Finding("OK", "waiting threads sleep (OMP_WAIT_POLICY=passive, the programs' default)")
    what = f"{' '.join(chosen)} sets how long waiting threads spin"
    return Finding("WARN", what, "if other work shares the cores, unset it: training may be several times faster")


def descriptors() -> Finding:
    """How many files this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("OK", "any number of files may be open")
    remedy = f"run `ulimit -n {min(MIN_DESCRIPTORS, hard) if hard > 0 else MIN_DESCRIPTORS}`"
    return judged(soft >= MIN_DESCRIPTORS, f"{soft} files may be open", remedy)


def shared_memory(gpus: int) -> Finding:
    """Free space in /dev/shm, which NCCL needs when a machine has several GPUs."""
    if not SHM.is_dir():
        return judged(gpus <= 1, "no /dev/shm", "NCCL needs it; mount a tmpfs")
    free = shutil.disk_usage(SHM).free
    remedy = "NCCL may fail with so little; use docker run --shm-size=8g, or --ipc=host"
    return judged(gpus <= 1 or free >= MIN_SHARED_MEMORY, f"/dev/shm has {_size(free)} free", remedy)


def disk(folder: Path) -> Finding:
    """Free disk space for betons and checkpoints in ``folder``."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    remedy = "make room: a checkpoint of a ResNet-50 is 0.2 GB, and the betons of ImageNet 160 GB"
    return judged(free >= MIN_DISK, f"{_size(free)} free on the disk of {folder}", remedy)


def memory() -> Finding:
    return Finding("OK", f"{_size(available_memory())} of memory available")


def betons(folder: Path) -> Iterator[Finding]:
    """Whether the betons in ``folder`` are complete and of one data set, and the training sets fit into memory."""
    paths = sorted({*folder.glob("*.beton"), *unadopted(folder)})
    if not paths:
        remedy = f"run write_datasets.py with --data.out={shlex.quote(str(folder))}"
        yield Finding("FAIL", f"no betons in {folder}", remedy)
    for path in sorted(folder.glob("*.beton.partial")):
        yield Finding("WARN", f"{path} is unfinished", "give the same write_datasets.py command again to finish it")
    by_classes: dict[tuple[str, ...], Path] = {}
    for path in paths:
        try:
            manifest = read_manifest(path)
        except UserError as error:
            yield Finding("FAIL", error.fault, error.remedy)
            continue
        by_classes.setdefault(manifest.classes, path)
        images, classes = f"{manifest.images:,} images", f"{len(manifest.classes)} classes"
        yield Finding("OK", f"{path}: {images} of {classes}, {_size(manifest.bytes)}")
        if manifest.split == "train":
            yield _fits(path, manifest.bytes)
    if len(by_classes) > 1:
        names = " and ".join(path.name for path in by_classes.values())
        yield Finding("FAIL", f"{names} hold different classes", "write them in one conversion, into an empty folder")


def _fits(path: Path, size: int) -> Finding:
    available = available_memory()
    if size < available:
        return Finding("OK", f"{path.name} fits into memory: only the first epoch of a phase reads it from the disk")
    what = f"{path.name} is {_size(size)}, but only {_size(available)} of memory is available"
    return Finding("WARN", what, "every epoch reads it from the disk, so keep it on a local SSD, or add memory")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
