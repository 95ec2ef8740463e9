"""The betons that a schedule reads, and their manifests."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.beton.manifest import Manifest, adopt_command, read_manifest, unadopted
from data_tools.common.errors import MissingFileError
from data_tools.common.options import OptionError
from training.config.schedule import Phase, Schedule, batches_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Datasets:
    """``manifests`` by set name (``train_160``); all of them hold the same ``classes``."""

    folder: Path
    manifests: Mapping[str, Manifest]
    classes: tuple[str, ...]

    def beton(self, name: str) -> Path:
        return self.folder / f"{name}.beton"

    def images(self, phase: Phase) -> int:
        """Training images of ``phase``."""
        return self.manifests[f"train_{phase.data}"].images


def read_datasets(folder: Path, sets: Sequence[str]) -> Datasets:
    """The manifests of these sets (``train_160``, ...).

    MissingFileError or ManifestError for a beton that is missing or not what its manifest says; OptionError if the
    sets hold different classes.
    """
    _check_present(folder, sets)
    manifests = {name: read_manifest(folder / f"{name}.beton") for name in sets}
    first, *others = manifests
    for name in others:
        if manifests[name].classes != manifests[first].classes:
            raise OptionError(
                f"{name} and {first} in {folder} hold different classes",
                where="data.dir",
                remedy="write them in one conversion, or adopt them with one command",
            )
    return Datasets(folder=folder, manifests=manifests, classes=manifests[first].classes)


def _check_present(folder: Path, sets: Sequence[str]) -> None:
    """MissingFileError that names all of these sets (``train_160``, ...) without a beton, and how to make them."""
    if folder.is_file():
        raise MissingFileError("a file", where=folder, remedy=f"give the folder of all betons, {folder.parent}")
    missing = [name for name in sets if not (folder / f"{name}.beton").exists()]
    if missing:
        caps = ",".join(dict.fromkeys(name.partition("_")[2] for name in missing))
        what = f"no beton here named {', '.join(missing)}"
        if others := unadopted(folder):
            raise MissingFileError(what, where=folder, remedy=adopt_command(*others))
        command = f"write_datasets.py --data.source=SOURCE --data.out={shlex.quote(str(folder))} --data.caps={caps}"
        raise MissingFileError(f"{what}; run {command}", where=folder)


def check_batches(images: Mapping[str, int], schedule: Schedule, gpus: int) -> None:
    """OptionError if a phase's global batch on ``gpus`` GPUs is larger than its training set; ``images`` is by set
    (``{"160": 1281167}``)."""
    for phase in schedule.phases:
        batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus, f"train_{phase.data}")
