"""The schedule: position in training -> px, batch, data set, learning rate. Pure functions of position.

A :class:`Phase` is a range of epochs with one image size and one batch size; an :class:`LrRamp` is a range of
epochs over which the learning rate goes linearly from one value to another. Both tile the training without gap or
overlap, independently of each other, as in the published imagenet18 schedules. There is no state, so a run can
resume anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from data_tools.common.options import REQUIRED, OptionError, check, option
from data_tools.common.text import plural

FULL = "full"
STRIDE = 32  # of a ResNet: its last feature map has ceil(px / 32) squared values a channel


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
                raise OptionError(
                    f"{value} is not a learning rate (a finite number >= 0)", where=f"phases[].lr[].{key}"
                )

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """Rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0).

        Source: imagenet18's ``linear_lr``: ``lr0 + (lr1-lr0)·((e-e0)·B + b) / ((e1-e0)·B)``.
        """
        done, total = (epoch - self.start) * batches + batch, (self.end - self.start) * batches
        # The last batch gets exactly the end value, without rounding error.
        return self.lr_to if done == total else self.lr_from + (self.lr_to - self.lr_from) * done / total


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Epochs ``[start, end)`` trained at one size; the other fields are keys of a phase in the YAML."""

    start: int
    end: int
    px: int = option(REQUIRED, "side of the square training crop", low=8, high=4096)
    batch_per_gpu: int = option(REQUIRED, "images per GPU and step", low=1, high=1 << 20)
    data: str = option(REQUIRED, "the set to train on: a cap in px, or `full`")
    min_scale: float = option(0.08, "the smallest share of an image's area that a random crop keeps", low=0, high=1)
    rectangular_val: bool = option(
        False, "validate on rectangles, cut to the mean shape of their batch, instead of squares"
    )
    val_data: str = option("", "the set to validate on", none="that of `data`")
    val_px: int = option(0, "side of a validation crop, the shorter one of a rectangle; 0: as `px`", low=0, high=4096)
    val_batch: int = option(
        0,
        "images in a validation batch; 0: 512 at 128 px, 256 at 224, else 128, or `batch_per_gpu` if that is more",
        low=0,
        high=1 << 20,
    )

    def __post_init__(self) -> None:
        check_span("phases[].epochs", self.start, self.end)
        published = max(self.batch_per_gpu, {128: 512, 224: 256}.get(self.px, 128))
        for key, default in (("val_data", self.data), ("val_px", self.px), ("val_batch", published)):
            if not getattr(self, key):
                object.__setattr__(self, key, default)
        try:
            check(self)
        except OptionError as error:
            raise OptionError(error.what, where=f"phases[].{error.where}") from None
        for key in ("data", "val_data"):
            name = getattr(self, key)
            if not (name == FULL or (name.isascii() and name.isdigit() and not name.startswith("0"))):
                remedy = "give a cap in px or 'full'"
                raise OptionError(f"{name!r} is no beton set", where=f"phases[].{key}", remedy=remedy)
        if self.val_px < 8 or not self.min_scale:
            key = "val_px" if self.val_px < 8 else "min_scale"
            raise OptionError(f"{getattr(self, key)} is too small", where=f"phases[].{key}")
        if self.batch_per_gpu == 1 and self.px <= STRIDE:
            raise OptionError(
                f"1 at {self.px} px: BatchNorm would see one value a channel, as the last feature map is 1 x 1",
                where="phases[].batch_per_gpu",
                remedy=f"give 2 or more, or more than {STRIDE} px",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Phases and learning-rate ramps, each tiling epochs ``[0, epochs)`` exactly."""

    phases: tuple[Phase, ...]
    ramps: tuple[LrRamp, ...]

    def __post_init__(self) -> None:
        if not self.phases:
            raise OptionError("empty", where="phases", remedy="give at least one phase")
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

    def betons(self) -> tuple[str, ...]:
        """Names of the betons used, each once, in order of first use: ``train_160``, ``val_160``, ..."""
        names = [name for p in self.phases for name in (f"train_{p.data}", f"val_{p.val_data}")]
        return tuple(dict.fromkeys(names))


def check_span(where: str, start: int, end: int) -> None:
    """OptionError unless ``[start, end)`` is a range of at least one epoch."""
    if not 0 <= start < end:
        raise OptionError(
            f"[{start}, {end}] is empty or runs backwards",
            where=where,
            remedy="give [first epoch, epoch after the last]",
        )


def _check_tiling(where: str, parts: Sequence[Phase] | Sequence[LrRamp], epochs: int) -> None:
    at = 0
    for part in parts:
        if part.start != at:
            kind, low, high = ("gap", at, part.start) if part.start > at else ("overlap", part.start, at)
            raise OptionError(
                f"{kind} between epochs {low} and {high}",
                where=where,
                remedy="each part must begin where the last ended",
            )
        at = part.end
    if at != epochs:
        kind = "no learning rate" if at < epochs else "a learning rate but no phase"
        raise OptionError(f"{kind} for epochs {min(at, epochs)} to {max(at, epochs)}", where=where)


P = TypeVar("P", Phase, LrRamp)


def _covering(parts: Sequence[P], epoch: int) -> P:
    for part in parts:
        if part.start <= epoch < part.end:
            return part
    raise IndexError(f"epoch {epoch} is outside the schedule's {parts[-1].end} epochs")


def batches_per_epoch(images: int, batch_per_gpu: int, gpus: int, name: object = "the training set") -> int:
    """Full global batches in the ``images`` of ``name``; an epoch leaves out the remainder, which differs from epoch to
    epoch. OptionError if there is not one full batch."""
    global_batch = batch_per_gpu * gpus
    if global_batch > images:
        raise OptionError(
            f"{batch_per_gpu} on {plural(gpus, 'GPU')} is {global_batch}, but {name} holds {plural(images, 'image')}",
            where="schedule.phases[].batch_per_gpu",
            remedy="give a smaller batch",
        )
    return images // global_batch
