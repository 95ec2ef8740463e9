"""The loaders of a run's phases; those of the next phase are made while the last epoch of the one before trains."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from data_tools.common.options import OptionError
from training.config.datasets import Inputs
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.engine.state import Job
from training.loader.beton_reader import Opened
from training.loader.loaders import TrainLoader, ValLoader, default_workers


@dataclass(frozen=True, slots=True)
class PhaseLoaders:
    """What a phase trains on and validates on."""

    training: TrainLoader
    validation: ValLoader

    def close(self) -> None:
        self.training.close()
        self.validation.close()


def train_loader(config: RunConfig, found: Inputs, phase: Phase, *, batch: int, **place: Any) -> TrainLoader:
    """What ``phase`` trains on, ``batch`` images a process; ``place``: TrainLoader's rank, workers and the like."""
    return TrainLoader(
        found.beton(f"train_{phase.data}"),
        px=phase.px,
        batch=batch,
        min_scale=phase.min_scale,
        seed=config.run.seed,
        page_window=config.data.page_window,
        **_reading(config, found),
        **place,
    )


def val_loader(config: RunConfig, found: Inputs, phase: Phase, **place: Any) -> ValLoader:
    """What ``phase`` validates on; ``place``: ValLoader's rank, workers and the like."""
    return ValLoader(
        found.beton(f"val_{phase.val_data}"),
        px=phase.val_px,
        batch=phase.val_batch,
        rectangular=phase.rectangular,
        **_reading(config, found),
        **place,
    )


def _reading(config: RunConfig, found: Inputs) -> dict[str, Any]:
    """How betons are opened, whatever for."""
    return {"classes": len(found.classes), "checksums": config.data.verify == "checksums"}


def place_of(job: Job) -> dict[str, Any]:
    """Which process the loaders of ``job`` work for, and with how many threads."""
    return {
        "rank": job.place.rank,
        "ranks": job.place.ranks,
        "workers": job.config.data.workers or default_workers(job.place.local_ranks),
        "device": job.place.device,
    }


def check_betons(job: Job) -> None:
    """OptionError where a beton of any phase, however late, is not what its manifest says: that is to be known now."""
    for name in job.inputs.manifests:
        try:
            Opened(job.inputs.beton(name), **_reading(job.config, job.inputs)).close()
        except (OSError, ValueError) as error:
            raise OptionError(f"data.dir: {error}") from None


def open_phase(job: Job, phase: Phase) -> PhaseLoaders:
    """Both loaders of a phase. Raises what an unsound beton or a batch too large for it raises."""
    place, batch = place_of(job), phase.batch_per_gpu * job.parts
    training = train_loader(job.config, job.inputs, phase, batch=batch, **place)
    try:
        return PhaseLoaders(training, val_loader(job.config, job.inputs, phase, **place))
    except BaseException:
        training.close()
        raise


class Upcoming:
    """The loaders of the phases to come, each made once: in the background if `begin` was called for it in time.

    Leaving the `with` block closes what was made and not taken.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-phase")
        self._made: dict[int, Future[PhaseLoaders]] = {}  # by the phase's first epoch

    def begin(self, epoch: int) -> None:
        """Make the loaders of the phase that begins with ``epoch``, if one does; an error waits for `take`."""
        for phase in self._job.schedule.phases:
            if phase.start == epoch:
                self._made[epoch] = self._thread.submit(open_phase, self._job, phase)

    def take(self, phase: Phase) -> PhaseLoaders:
        """The loaders of ``phase``, which are now the caller's to close."""
        made = self._made.pop(phase.start, None)
        return made.result() if made is not None else open_phase(self._job, phase)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        for made in self._made.values():
            if made.exception() is None:
                made.result().close()
