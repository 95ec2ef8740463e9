"""The betons that a schedule reads, known by their manifests before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.beton.manifest import Manifest, read_manifest
from data_tools.common.options import OptionError
from training.config.run_config import RunConfig
from training.config.schedule import Phase, Schedule


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

    FileNotFoundError or ValueError for a beton that is missing, or whose size is not its manifest's; OptionError
    where the sets hold different classes.
    """
    manifests = {}
    for name in sets:
        path = folder / f"{name}.beton"
        found = read_manifest(path)
        if path.stat().st_size != found.bytes:
            raise ValueError(
                f"{path}: {path.stat().st_size} bytes, but its manifest says {found.bytes}; run write_datasets.py again"
            )
        manifests[name] = found
    first, *others = manifests
    for name in others:
        if manifests[name].classes != manifests[first].classes:
            raise OptionError(
                f"data.dir: {name} and {first} in {folder} hold different classes; write them in one conversion"
            )
    return Datasets(folder=folder, manifests=manifests, classes=manifests[first].classes)


def check_batches(datasets: Datasets, schedule: Schedule, gpus: int) -> None:
    """OptionError where a phase's global batch over ``gpus`` processes is larger than its training set."""
    for phase in schedule.phases:
        batch, images = phase.batch_per_gpu * gpus, datasets.images(phase)
        if batch > images:
            raise OptionError(
                f"schedule.phases[].batch_per_gpu: {phase.batch_per_gpu} on {gpus} processes is {batch}, "
                f"but train_{phase.data} holds {images} images; give a smaller batch"
            )


def images_of(config: RunConfig, schedule: Schedule) -> dict[str, int]:
    """Training images by set: ``data.train_images`` where given, else what the manifests say."""
    sets = {phase.data for phase in schedule.phases}
    if config.data.train_images is not None:
        return dict.fromkeys(sets, config.data.train_images)
    try:
        return {name: read_manifest(config.data.dir / f"train_{name}.beton").images for name in sets}
    except FileNotFoundError as error:
        raise OptionError(f"{error}; or give --data.train_images=1281167") from None
