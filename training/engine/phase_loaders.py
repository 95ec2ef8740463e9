"""The loaders of a run's phases; those of the next phase are opened during the last epoch of the current one."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data_tools.common.console import plural
from data_tools.common.errors import UserError
from data_tools.common.options import OptionError
from data_tools.common.resources import OutOfMemoryError, default_workers
from training.config.datasets import Datasets
from training.config.phases import LONGEST
from training.config.run_config import Data, RunConfig
from training.config.schedule import Phase
from training.distributed.world import World
from training.engine.state import TrainState
from training.loader import augmentation
from training.loader.loaders import TrainLoader, ValLoader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PhaseLoaders:
    training: TrainLoader
    validation: ValLoader

    def close(self) -> None:
        self.training.close()
        self.validation.close()


def train_loader(
    config: RunConfig, datasets: Datasets, phase: Phase, *, batch: int, rank: int = 0, ranks: int = 1, **options: Any
) -> TrainLoader:
    """The training loader of ``phase``, ``batch`` images per process; ``options``: workers and the like."""
    operations, modules = augmentation.build(config.data.augment, rank, ranks)
    augmentation.check_on_device(modules, phase.px, options.get("device", "cpu"))
    return TrainLoader(
        datasets.beton(f"train_{phase.data}"),
        px=phase.px,
        batch=batch,
        rank=rank,
        ranks=ranks,
        min_scale=phase.min_scale,
        seed=config.run.seed,
        page_window=config.data.page_window,
        augment=operations,
        on_device=modules,
        classes=len(datasets.classes),
        checksums=config.data.checksums,
        **options,
    )


def val_loader(config: RunConfig, datasets: Datasets, phase: Phase, **options: Any) -> ValLoader:
    """The validation loader of ``phase``; ``options``: rank, workers and the like."""
    return ValLoader(
        datasets.beton(f"val_{phase.val_data}"),
        px=phase.val_px,
        resize=phase.val_resize,
        batch=phase.val_batch,
        rectangular=phase.rectangular_val,
        classes=len(datasets.classes),
        checksums=config.data.checksums,
        **options,
    )


def note_strips(loader: ValLoader) -> None:
    """Say so if images of the validation set are too long for rectangles."""
    if loader.strips:
        which = f"{plural(loader.strips, 'image')} of {loader.beton.path}"
        logger.info("note: a rectangle is at most %d times its shorter side; cropped to that: %s", LONGEST, which)


def share_of(world: World, data: Data) -> dict[str, Any]:
    """Rank, device and number of threads of this process's loaders."""
    workers = data.workers or default_workers(world.local_ranks)
    return {"rank": world.rank, "ranks": world.ranks, "workers": workers, "device": world.device}


def check_betons(state: TrainState) -> None:
    """Open and close every loader of the run, so that a late phase fails at the start: OptionError if a beton is not
    what its manifest says, or if the largest batch does not fit into memory."""
    long, checked = dict[Path, ValLoader](), set[tuple[object, ...]]()
    for phase in state.schedule.phases:
        training = ("batch_per_gpu", phase.data, phase.px, phase.batch_per_gpu)
        validation = ("val_batch", phase.val_data, phase.val_px, phase.val_batch, phase.rectangular_val)
        for alike, opened in ((training, _training), (validation, _validation)):
            if alike in checked:  # as in another phase: ImageNet's tables take a second to read
                continue
            checked.add(alike)
            batch = alike[0]
            try:
                with opened(state, phase) as loader:
                    if isinstance(loader, ValLoader) and loader.strips:
                        long[loader.beton.path] = loader
            except OptionError:
                raise
            except OutOfMemoryError as error:
                what, remedy = f"epoch {phase.span}: {error.fault}", f"give a smaller {batch}"
                raise OptionError(what, where=f"schedule.phases.{batch}", remedy=remedy) from None
            except UserError as error:
                raise OptionError(error.fault, where="data.dir", remedy=error.remedy) from None
    for each in long.values():
        note_strips(each)


def _training(state: TrainState, phase: Phase) -> TrainLoader:
    batch = phase.batch_per_gpu * state.step.accumulation_steps
    return train_loader(state.config, state.datasets, phase, batch=batch, **share_of(state.world, state.config.data))


def _validation(state: TrainState, phase: Phase) -> ValLoader:
    return val_loader(state.config, state.datasets, phase, **share_of(state.world, state.config.data))


def open_phase(state: TrainState, phase: Phase) -> PhaseLoaders:
    """Both loaders of a phase. Raises if a beton is damaged or smaller than a batch."""
    training = _training(state, phase)
    try:
        return PhaseLoaders(training, _validation(state, phase))
    except BaseException:
        training.close()
        raise


class PhasePrefetcher:
    """Opens the loaders of coming phases, in the background if `begin` is called in time.

    Leaving the `with` block closes the loaders that were not taken.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-phase")
        self._opening: dict[int, Future[PhaseLoaders]] = {}  # by the phase's first epoch

    def begin(self, epoch: int) -> None:
        """Open the loaders of the phase that starts at ``epoch``, if any; `take` raises their errors."""
        for phase in self._state.schedule.phases:
            if phase.start == epoch:
                self._opening[epoch] = self._thread.submit(open_phase, self._state, phase)

    def take(self, phase: Phase) -> PhaseLoaders:
        """The loaders of ``phase``, which the caller must close."""
        opening = self._opening.pop(phase.start, None)
        return opening.result() if opening is not None else open_phase(self._state, phase)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        for opening in self._opening.values():
            if opening.exception() is None:
                opening.result().close()
