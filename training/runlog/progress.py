"""How far a run is: all that changes in it besides the tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

NO_SUMS = (0.0, 0.0, 0.0, 0.0)  # images, loss, top-1 hits, top-5 hits


@dataclass(slots=True)
class Progress:
    """``batch`` batches into epoch ``epoch``, with metric sums ``sums`` of all processes; ``seconds`` on the clock;
    ``scores`` of the last complete epoch and its number."""

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: list(NO_SUMS))
    images_seen: int = 0
    seconds: float = 0.0
    best: list[float] = field(default_factory=list)  # the best epoch's rank, see `Trainer.end_epoch`; empty: none yet
    scores: dict[str, float] = field(default_factory=dict)

    def add(self, sums: list[float]) -> None:
        """Add metric sums of more batches of the epoch."""
        self.sums = [before + more for before, more in zip(self.sums, sums, strict=True)]
