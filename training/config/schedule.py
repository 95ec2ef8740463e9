"""The schedule: position in training -> px, batch, data set, learning rate, momentum. Pure functions of position.

A :class:`Phase` is a range of epochs with one image size and one batch size; an :class:`LrRamp` is a range of
epochs over which the learning rate goes from one value to another, and a :class:`MomentumRamp` the same for momentum.
Each kind tiles the training without gap or overlap, independently of the others, as in the published imagenet18
schedules. There is no state, so a run can resume anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar, get_args

from data_tools.common.options import REQUIRED, OptionError, check, option
from data_tools.common.text import plural

FULL = "full"
VAL_COST = 1 / 3  # a validation image needs only the forward pass; a training image costs three of those
MOST_EPOCHS = 100_000  # a checkpoint keeps a line of text for each
STRIDE = 32  # of a ResNet: its last feature map has ceil(px / 32) squared values per channel
Shape = Literal["linear", "cosine", "polynomial"]
SHAPES: tuple[str, ...] = get_args(Shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp:
    """A change from one value to another over epochs ``[start, end)``.

    ``shape``: ``linear``; ``cosine``, half a period, as torch's CosineAnnealingLR; ``polynomial``, as torch's
    PolynomialLR: the difference to the last value is as the ``power`` of the share of batches that are left.
    """

    start: int
    end: int
    shape: Shape = "linear"
    power: float | None = None
    key: ClassVar[str]  # in the YAML

    def __post_init__(self) -> None:
        where = f"phases[].{self.key}[]"
        check_span(f"{where}.epochs", self.start, self.end)
        if self.shape not in SHAPES:
            raise OptionError(f"{self.shape!r} is not one of {', '.join(SHAPES)}", where=f"{where}.shape")
        if (self.power is not None) != (self.shape == "polynomial"):
            what = "missing" if self.power is None else "only for shape: polynomial"
            raise OptionError(what, where=f"{where}.power", remedy="give shape: polynomial and power: 2.0, or neither")
        if self.power is not None and not (math.isfinite(self.power) and self.power > 0):
            raise OptionError(f"{self.power} is not a number above 0", where=f"{where}.power")

    def _between(self, first: float, last: float, epoch: int, batch: int, batches: int) -> float:
        """The value of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0).

        Source of the linear one: imagenet18's ``linear_lr``: ``lr0 + (lr1-lr0)·((e-e0)·B + b) / ((e1-e0)·B)``.
        """
        done, total = (epoch - self.start) * batches + batch, (self.end - self.start) * batches
        if done == total:
            return last  # exactly, without rounding error
        if self.shape == "cosine":
            return last + (first - last) * (1 + math.cos(math.pi * done / total)) / 2
        if self.power is not None:
            return last + (first - last) * math.pow(1 - done / total, self.power)
        return first + (last - first) * done / total


@dataclass(frozen=True, kw_only=True, slots=True)
class LrRamp(Ramp):
    """Learning rate, for the whole job, from ``lr_from`` to ``lr_to``."""

    lr_from: float
    lr_to: float
    key: ClassVar[str] = "lr"

    def __post_init__(self) -> None:
        Ramp.__post_init__(self)
        for key, value in (("from", self.lr_from), ("to", self.lr_to)):
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(
                    f"{value} is not a learning rate (a finite number >= 0)", where=f"phases[].lr[].{key}"
                )

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """Rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0)."""
        return self._between(self.lr_from, self.lr_to, epoch, batch, batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumRamp(Ramp):
    """Momentum of SGD from ``momentum_from`` to ``momentum_to``."""

    momentum_from: float
    momentum_to: float
    key: ClassVar[str] = "momentum"

    def __post_init__(self) -> None:
        Ramp.__post_init__(self)
        for key, value in (("from", self.momentum_from), ("to", self.momentum_to)):
            # At 0, torch's SGD would leave its momentum buffer as it is and use it again afterwards.
            if not 0 < value < 1:
                raise OptionError(
                    f"{value} is not a momentum (above 0 and below 1)", where=f"phases[].momentum[].{key}"
                )

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """Momentum of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0)."""
        return self._between(self.momentum_from, self.momentum_to, epoch, batch, batches)


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
    val_px: int = option(0, "side of a validation crop; for rectangles, the shorter side; 0: as `px`", low=0, high=4096)
    val_resize: int = option(
        0,
        "shorter side that a validation image is resized to before its centre is cut out; 0: int(1.14 · `val_px`)",
        low=0,
        high=8192,
    )
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
                raise OptionError(f"{name!r} is not a beton set", where=f"phases[].{key}", remedy=remedy)
        if self.val_px < 8 or not self.min_scale:
            key = "val_px" if self.val_px < 8 else "min_scale"
            raise OptionError(f"{getattr(self, key)} is too small", where=f"phases[].{key}")
        if self.batch_per_gpu == 1 and self.px <= STRIDE:
            raise OptionError(
                f"1 at {self.px} px: BatchNorm would see one value per channel, as the last feature map is 1 x 1",
                where="phases[].batch_per_gpu",
                remedy=f"give 2 or more, or more than {STRIDE} px",
            )
        if 0 < self.val_resize < self.val_px:
            what = f"{self.val_resize} is smaller than the crop of {self.val_px} px"
            raise OptionError(what, where="phases[].val_resize", remedy="give at least val_px")

    @property
    def span(self) -> str:
        """Its epochs, counted from 1: ``1-18``, or ``19`` alone."""
        return f"{self.start + 1}-{self.end}" if self.end > self.start + 1 else str(self.end)

    @property
    def val_shorter_px(self) -> int:
        """The shorter side that a validation image is resized to."""
        return self.val_resize or int(self.val_px * 1.14)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Phases, ramps of the learning rate and ramps of momentum, each tiling epochs ``[0, epochs)`` exactly.

    Without ``momentum_ramps``, momentum is ``train.momentum`` throughout.
    """

    phases: tuple[Phase, ...]
    ramps: tuple[LrRamp, ...]
    momentum_ramps: tuple[MomentumRamp, ...] = ()

    def __post_init__(self) -> None:
        if not self.phases:
            raise OptionError("empty", where="phases", remedy="give at least one phase")
        _check_tiling("phases[].epochs", self.phases, self.epochs)
        _check_tiling("phases[].lr[].epochs", self.ramps, self.epochs, "no learning rate")
        if self.momentum_ramps:
            _check_tiling("phases[].momentum[].epochs", self.momentum_ramps, self.epochs, "no momentum")

    @property
    def epochs(self) -> int:
        return self.phases[-1].end

    def phase(self, epoch: int) -> Phase:
        """The phase of ``epoch`` (from 0). IndexError outside the schedule."""
        return _covering(self.phases, epoch)

    def lr(self, epoch: int, batch: int, batches: int) -> float:
        """Learning rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0)."""
        return _covering(self.ramps, epoch).at(epoch, batch, batches)

    def momentum(self, epoch: int, batch: int, batches: int) -> float | None:
        """Momentum of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0); None without ramps."""
        if not self.momentum_ramps:
            return None
        return _covering(self.momentum_ramps, epoch).at(epoch, batch, batches)

    @property
    def highest_lr(self) -> float:
        """The highest learning rate of all."""
        return max(rate for ramp in self.ramps for rate in (ramp.lr_from, ramp.lr_to))

    def betons(self) -> tuple[str, ...]:
        """Names of the betons used, each once, in order of first use: ``train_160``, ``val_160``, ..."""
        names = [name for p in self.phases for name in (f"train_{p.data}", f"val_{p.val_data}")]
        return tuple(dict.fromkeys(names))


def check_span(where: str, start: float, end: float) -> None:
    """OptionError unless ``[start, end)`` is a range of at least one epoch."""
    if end > MOST_EPOCHS:
        raise OptionError(f"[{start}, {end}] has more than {MOST_EPOCHS:,} epochs", where=where)
    if not 0 <= start < end:
        raise OptionError(
            f"[{start}, {end}] is empty or runs backwards",
            where=where,
            remedy="give [first epoch, epoch after the last]",
        )


def _check_tiling(where: str, parts: Sequence[Phase] | Sequence[Ramp], epochs: int, missing: str = "") -> None:
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
        kind = missing if at < epochs else f"a {missing.removeprefix('no ')} but no phase"
        raise OptionError(f"{kind} for epochs {min(at, epochs)} to {max(at, epochs)}", where=where)


P = TypeVar("P", Phase, LrRamp, MomentumRamp)


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
