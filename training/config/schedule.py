"""The schedule: position in training -> px, batch, data set, learning rate. Pure functions of position.

A :class:`Phase` is a stretch of epochs with one image size and one batch size; a :class:`Ramp` is a stretch of
epochs over which the learning rate goes linearly from one value to another. Both tile the training without gap or
overlap, independently of each other, as in the published imagenet18 schedules. Nothing here holds state, so
resuming anywhere is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from data_tools.common.options import OptionError

FULL = "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class LrRamp:
    """Learning rate, for the whole job, from ``lr_from`` to ``lr_to`` over epochs ``[start, end)``."""

    start: int
    end: int
    lr_from: float
    lr_to: float

    def __post_init__(self) -> None:
        check_span("phases[].lr[].epochs", self.start, self.end)
        for key, value in (("from", self.lr_from), ("to", self.lr_to)):
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"phases[].lr[].{key}: {value} is not a learning rate (a finite number >= 0)")

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """Rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0).

        Source: imagenet18's ``linear_lr``: ``lr0 + (lr1-lr0)·((e-e0)·B + b) / ((e1-e0)·B)``.
        """
        done, total = (epoch - self.start) * batches + batch, (self.end - self.start) * batches
        # The last batch gets the end value itself, not its neighbour by rounding.
        return self.lr_to if done == total else self.lr_from + (self.lr_to - self.lr_from) * done / total


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Epochs ``[start, end)`` trained at one size.

    ``data`` and ``val_data`` name beton sets (``"160"``, ``"320"``, ``"full"``); ``px`` is the side of the square
    training crop, ``val_px`` the short side of a validation crop; ``min_scale`` is the least
    share of the image's area that a random crop keeps; ``rectangular`` validates on batches cut to their mean aspect
    ratio.
    """

    start: int
    end: int
    px: int
    batch_per_gpu: int
    data: str
    min_scale: float
    rectangular: bool
    val_data: str
    val_px: int
    val_batch: int

    def __post_init__(self) -> None:
        check_span("phases[].epochs", self.start, self.end)
        for key, low, high in (
            ("px", 8, 4096),
            ("val_px", 8, 4096),
            ("batch_per_gpu", 1, 1 << 20),
            ("val_batch", 1, 1 << 20),
        ):
            if not low <= getattr(self, key) <= high:
                raise OptionError(f"phases[].{key}: {getattr(self, key)} is outside {low}..{high}")
        if not 0 < self.min_scale <= 1:
            raise OptionError(f"phases[].min_scale: {self.min_scale} is outside (0, 1]")
        for key in ("data", "val_data"):
            name = getattr(self, key)
            if not (name == FULL or (name.isascii() and name.isdigit() and int(name) > 0)):
                raise OptionError(f"phases[].{key}: {name!r} is no beton set; give a cap in px or 'full'")

    @staticmethod
    def of(
        *,
        start: int,
        end: int,
        px: int,
        batch_per_gpu: int,
        data: str,
        min_scale: float = 0.08,
        rectangular: bool = False,
        val_data: str | None = None,
        val_px: int | None = None,
        val_batch: int | None = None,
    ) -> Phase:
        """A phase that, unless told otherwise, validates at the size and on the set that it trains on."""
        return Phase(
            start=start,
            end=end,
            px=px,
            batch_per_gpu=batch_per_gpu,
            data=data,
            min_scale=min_scale,
            rectangular=rectangular,
            val_data=data if val_data is None else val_data,
            val_px=px if val_px is None else val_px,
            val_batch=default_val_batch(px, batch_per_gpu) if val_batch is None else val_batch,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Phases and learning-rate ramps, each tiling epochs ``[0, epochs)`` exactly."""

    phases: tuple[Phase, ...]
    ramps: tuple[LrRamp, ...]

    def __post_init__(self) -> None:
        if not self.phases:
            raise OptionError("phases: empty; give at least one phase")
        _check_tiling("phases[].epochs", self.phases, self.epochs)
        _check_tiling("phases[].lr[].epochs", self.ramps, self.epochs)

    @property
    def epochs(self) -> int:
        return self.phases[-1].end

    def phase(self, epoch: int) -> Phase:
        """The phase of ``epoch`` (from 0). IndexError outside the schedule."""
        return _covering(self.phases, epoch)

    def lr(self, epoch: int, batch: int, batches: int) -> float:
        """Learning rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0)."""
        return _covering(self.ramps, epoch).at(epoch, batch, batches)

    def sets(self) -> tuple[str, ...]:
        """Names of the beton files used, each once, in order of first use: ``train_160``, ``val_160``, ..."""
        names = [name for p in self.phases for name in (f"train_{p.data}", f"val_{p.val_data}")]
        return tuple(dict.fromkeys(names))


def default_val_batch(px: int, batch_per_gpu: int) -> int:
    """Validation batch of the published recipe for a training size and batch."""
    return max(batch_per_gpu, {128: 512, 224: 256}.get(px, 128))


def check_span(where: str, start: int, end: int) -> None:
    """OptionError unless epochs ``[start, end)`` are some."""
    if not 0 <= start < end:
        raise OptionError(
            f"{where}: [{start}, {end}] is empty or runs backwards; give [first epoch, epoch after the last]"
        )


def _check_tiling(where: str, parts: Sequence[Phase] | Sequence[LrRamp], epochs: int) -> None:
    at = 0
    for part in parts:
        if part.start != at:
            kind, low, high = ("gap", at, part.start) if part.start > at else ("overlap", part.start, at)
            raise OptionError(
                f"{where}: {kind} between epochs {low} and {high}; each part must begin where the last ended"
            )
        at = part.end
    if at != epochs:
        kind = "no learning rate" if at < epochs else "a learning rate but no phase"
        raise OptionError(f"{where}: {kind} for epochs {min(at, epochs)} to {max(at, epochs)}")


P = TypeVar("P", Phase, LrRamp)


def _covering(parts: Sequence[P], epoch: int) -> P:
    for part in parts:
        if part.start <= epoch < part.end:
            return part
    raise IndexError(f"epoch {epoch} is outside the schedule's {parts[-1].end} epochs")


def batches_per_epoch(images: int, batch_per_gpu: int, gpus: int) -> int:
    """Full global batches in ``images``; the ragged rest of an epoch is left out, it comes up in the next."""
    return images // (batch_per_gpu * gpus)
