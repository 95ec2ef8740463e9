"""Estimates the time left of a run from the schedule's work and the rate so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from training.config.schedule import VAL_COST, Schedule, batches_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkModel:
    """Work of a run on ``gpus`` GPUs, in trained pixels; ``images`` by set (``{"train_160": 1281167}``).

    Most of a ResNet's work is convolutions, which scale with area; rectangles count as squares.
    """

    schedule: Schedule
    images: Mapping[str, int]
    gpus: int

    def batches(self, epoch: int) -> int:
        """Training batches of ``epoch`` (from 0)."""
        phase = self.schedule.phase(epoch)
        return batches_per_epoch(self.images[f"train_{phase.data}"], phase.batch_per_gpu, self.gpus)

    @property
    def total_batches(self) -> int:
        return sum(self.batches(epoch) for epoch in range(self.schedule.epochs))

    def of_batch(self, epoch: int) -> int:
        phase = self.schedule.phase(epoch)
        return phase.batch_per_gpu * self.gpus * phase.px**2

    def of_validation(self, epoch: int) -> float:
        phase = self.schedule.phase(epoch)
        return self.images[f"val_{phase.val_data}"] * phase.val_px**2 * VAL_COST

    def of_epoch(self, epoch: int) -> float:
        """Training and validation of ``epoch``."""
        return self.batches(epoch) * self.of_batch(epoch) + self.of_validation(epoch)


class EtaEstimator:
    """Time left, by the rate since the phase or this process began, whichever is later: the rate depends on the size of
    the images."""

    def __init__(self, work: WorkModel) -> None:
        self.work = work
        epochs = range(work.schedule.epochs)
        self._before = [0.0, *accumulate(work.of_epoch(epoch) for epoch in epochs)]
        self._since: tuple[float, float] | None = None

    def begin_epoch(self, epoch: int, batch: float, seconds: float) -> None:
        """An epoch begins, or continues after ``batch`` batches, with ``seconds`` on the clock."""
        if self._since is None or epoch == self.work.schedule.phase(epoch).start:
            self._since = self._done(epoch, batch), seconds

    def left(self, epoch: int, batch: float, seconds: float) -> tuple[float, float]:
        """Seconds until ``epoch`` is trained and validated, and until the run is over, after ``batch`` batches of it
        with ``seconds`` on the clock; nan while unknown."""
        assert self._since is not None, "begin_epoch() comes first"
        done = self._done(epoch, batch)
        work, elapsed = done - self._since[0], seconds - self._since[1]
        if work <= 0 or elapsed <= 0:
            return float("nan"), float("nan")
        return (self._before[epoch + 1] - done) * elapsed / work, (self._before[-1] - done) * elapsed / work

    def _done(self, epoch: int, batch: float) -> float:
        # An epoch that began with a smaller batch may train a part of a batch more.
        return self._before[epoch] + min(batch, self.work.batches(epoch)) * self.work.of_batch(epoch)
