"""How far a run is: all that changes in it besides the tensors."""

from dataclasses import dataclass, field
from typing import Any

NO_SUMS = (0.0, 0.0, 0.0, 0.0, 0.0)  # those of `engine.metrics.MetricSums`


@dataclass(slots=True)
class Progress:
    """``images`` images into epoch ``epoch``, in ``batch`` steps, with metric sums ``sums`` of all processes; the epoch
    ends at ``epoch_images``; ``seconds`` on the clock; ``scores`` of the last complete epoch and its number."""

    epoch: int = 0
    batch: int = 0
    images: int = 0
    epoch_images: int = 0
    sums: list[float] = field(default_factory=lambda: list(NO_SUMS))
    images_seen: int = 0
    step_rows: int = 0  # of the table of steps
    seconds: float = 0.0
    best: list[float] = field(default_factory=list)  # the best epoch's rank, see `Trainer.end_epoch`; empty: none yet
    scores: dict[str, float] = field(default_factory=dict)
    started: float = 0.0  # when the run began, in seconds since 1970
    history: list[dict[str, Any]] = field(default_factory=list)  # of the complete epochs: fields of `PastEpoch`

    def plan_epoch(self, images: int, global_batch: int) -> int:
        """Steps of ``global_batch`` that are left of the epoch, of a set of ``images``.

        The batch that the epoch begins with decides where it ends, so that its share goes on where it was when a run is
        continued with another batch. What does not divide then is left out, as at the end of every epoch.
        """
        if not self.images:
            self.epoch_images = images // global_batch * global_batch
        return max(0, min(self.epoch_images, images) - self.images) // global_batch

    def in_batches(self, global_batch: int) -> tuple[float, float]:
        """Its place in the epoch, and the epoch's end, in batches of ``global_batch``; fractions only if another batch
        came before."""
        return self.images / global_batch, self.epoch_images / global_batch

    def end_epoch(self) -> None:
        self.epoch, self.batch, self.images, self.sums = self.epoch + 1, 0, 0, list(NO_SUMS)

    def add(self, sums: list[float]) -> None:
        self.sums = [before + more for before, more in zip(self.sums, sums, strict=True)]
