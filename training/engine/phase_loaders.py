"""The loaders of a run's phases; those of the next phase are made while the last epoch of the one before trains."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from data_tools.common.options import OptionError
from training.config.datasets import Datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.engine.state import TrainState
from training.loader.beton_reader import BetonReader
from training.loader.loaders import TrainLoader, ValLoader, default_workers


@dataclass(frozen=True, slots=True)
class PhaseLoaders:
    """What a phase trains on and validates on."""

    training: TrainLoader
    validation: ValLoader

    def close(self) -> None:
        self.training.close()
        self.validation.close()


def train_loader(config: RunConfig, datasets: Datasets, phase: Phase, *, batch: int, **options: Any) -> TrainLoader:
    """What ``phase`` trains on, ``batch`` images a process; ``options``: TrainLoader's rank, workers and the like."""
    return TrainLoader(
        datasets.beton(f"train_{phase.data}"),
        px=phase.px,
        batch=batch,
        min_scale=phase.min_scale,
        seed=config.run.seed,
        page_window=config.data.page_window,
        **_reading(config, datasets),
        **options,
    )


def val_loader(config: RunConfig, datasets: Datasets, phase: Phase, **options: Any) -> ValLoader:
    """What ``phase`` validates on; ``options``: ValLoader's rank, workers and the like."""
    return ValLoader(
        datasets.beton(f"val_{phase.val_data}"),
        px=phase.val_px,
        batch=phase.val_batch,
        rectangular=phase.rectangular_val,
        **_reading(config, datasets),
        **options,
    )


def _reading(config: RunConfig, datasets: Datasets) -> dict[str, Any]:
    """How betons are opened, whatever for."""
    return {"classes": len(datasets.classes), "checksums": config.data.checksums}


def loader_options(state: TrainState) -> dict[str, Any]:
    """Which process the loaders of ``job`` work for, and with how many threads."""
    return {
        "rank": state.world.rank,
        "ranks": state.world.ranks,
        "workers": state.config.data.workers or default_workers(state.world.local_ranks),
        "device": state.world.device,
    }


def check_betons(state: TrainState) -> None:
    """OptionError where a beton of any phase, however late, is not what its manifest says: that is to be known now."""
    for name in state.datasets.manifests:
        try:
            BetonReader(state.datasets.beton(name), **_reading(state.config, state.datasets)).close()
        except (OSError, ValueError) as error:
            raise OptionError(str(error), where="data.dir") from None


def open_phase(state: TrainState, phase: Phase) -> PhaseLoaders:
    """Both loaders of a phase. Raises what an unsound beton or a batch too large for it raises."""
    options, batch = loader_options(state), phase.batch_per_gpu * state.accumulation_steps
    training = train_loader(state.config, state.datasets, phase, batch=batch, **options)
    try:
        return PhaseLoaders(training, val_loader(state.config, state.datasets, phase, **options))
    except BaseException:
        training.close()
        raise


class PhasePrefetcher:
    """The loaders of the phases to come, each made once: in the background if `begin` was called for it in time.

    Leaving the `with` block closes what was made and not taken.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-phase")
        self._made: dict[int, Future[PhaseLoaders]] = {}  # by the phase's first epoch

    def begin(self, epoch: int) -> None:
        """Make the loaders of the phase that begins with ``epoch``, if one does; an error waits for `take`."""
        for phase in self._state.schedule.phases:
            if phase.start == epoch:
                self._made[epoch] = self._thread.submit(open_phase, self._state, phase)

    def take(self, phase: Phase) -> PhaseLoaders:
        """The loaders of ``phase``, which are now the caller's to close."""
        made = self._made.pop(phase.start, None)
        return made.result() if made is not None else open_phase(self._state, phase)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        for made in self._made.values():
            if made.exception() is None:
                made.result().close()
