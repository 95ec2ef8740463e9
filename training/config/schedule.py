"""The schedule: position in training -> px, batch, data set, learning rate, momentum. Pure functions of position.

A :class:`Phase` is a range of epochs with one image size and one batch size; a :class:`Ramp` is a range of epochs over
which the learning rate, or momentum, goes from one value to another. Each kind tiles the training without gap or
overlap, independently of the others, as in the published imagenet18 schedules. There is no state, so a run can resume
anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from data_tools.common.options import OptionError, Section
from data_tools.common.text import plural
from training.config import imagenet18

FULL = imagenet18.FULL
MOST_EPOCHS = 100_000  # a checkpoint keeps a line of text for each
MOST_PX = 4096
STRIDE = 32  # of a ResNet: its last feature map has ceil(px / 32) squared values per channel


def _pair(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    raise OptionError(f"{value!r} has no end", remedy="give [first epoch, epoch after the last]")


Number = TypeVar("Number", int, float)


def _span(span: tuple[Number, Number]) -> tuple[Number, Number]:
    """A range of at least one epoch, as it is. OptionError for another."""
    start, end = span
    if end > MOST_EPOCHS:
        raise OptionError(f"{list(span)} has more than {MOST_EPOCHS:,} epochs")
    if not 0 <= start < end:
        remedy = "give [first epoch, epoch after the last]"
        raise OptionError(f"{list(span)} is empty or runs backwards", remedy=remedy)
    return span


def _beton_set(name: str) -> str:
    if name == FULL or (name.isascii() and name.isdigit() and not name.startswith("0")):
        return name
    raise OptionError(f"{name!r} is not a beton set", remedy="give a cap in px or 'full'")


Epochs = Annotated[tuple[int, int], BeforeValidator(_pair), AfterValidator(_span)]
PartsOfEpochs = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_span)]
BetonSet = Annotated[str, AfterValidator(_beton_set)]


class Ramp(Section):
    """A change from one value to another over epochs ``[start, end)``.

    ``shape``: ``linear``; ``cosine``, half a period, as torch's CosineAnnealingLR; ``polynomial``, as torch's
    PolynomialLR: the difference to the last value is as the ``power`` of the share of batches that are left.
    """

    epochs: Epochs
    first: float = Field(alias="from", ge=0)
    last: float = Field(alias="to", ge=0)
    shape: Literal["linear", "cosine", "polynomial"] = "linear"
    power: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _has_power(self) -> Ramp:
        if (self.power is not None) != (self.shape == "polynomial"):
            what = "missing" if self.power is None else "only for shape: polynomial"
            raise OptionError(what, where="power", remedy="give shape: polynomial and power: 2.0, or neither")
        return self

    @property
    def start(self) -> int:
        return self.epochs[0]

    @property
    def end(self) -> int:
        return self.epochs[1]

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """The value of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0).

        Source of the linear one: imagenet18's ``linear_lr``: ``lr0 + (lr1-lr0)·((e-e0)·B + b) / ((e1-e0)·B)``.
        """
        first, last = self.first, self.last
        done, total = (epoch - self.start) * batches + batch, (self.end - self.start) * batches
        if done == total:
            return last  # exactly, without rounding error
        if self.shape == "cosine":
            return last + (first - last) * (1 + math.cos(math.pi * done / total)) / 2
        if self.power is not None:
            return last + (first - last) * math.pow(1 - done / total, self.power)
        return first + (last - first) * done / total


class PxRamp(Section):
    """A size that goes linearly from ``first`` to the phase's over ``epochs``, rounded to multiples of ``multiple``
    (halves to the even multiple), as in ffcv-imagenet's ``resolution`` section and composer's ProgressiveResizing."""

    first: int = Field(alias="from", ge=8, le=MOST_PX)
    epochs: PartsOfEpochs
    multiple: int = Field(32, ge=1, le=MOST_PX)

    def px(self, epoch: int, last: int) -> int:
        """The size in ``epoch`` if it ends at ``last``."""
        start, end = self.epochs
        if epoch <= start or epoch >= end:
            return self.first if epoch <= start else last
        return (
            round((self.first + (last - self.first) * (epoch - start) / (end - start)) / self.multiple) * self.multiple
        )


class Phase(Section):
    """Epochs ``[start, end)`` that are trained at one size, or with ``px_ramp`` at several."""

    epochs: Epochs = Field(
        description="`[a, b]`: begins after epoch a and ends after epoch b, counted from 1; the phases follow each "
        "other without gap or overlap"
    )
    px: int = Field(ge=8, le=MOST_PX, description="side of the square training crop")
    batch_per_gpu: int = Field(ge=1, le=1 << 20, description="images per GPU and step")
    data: BetonSet = Field(description="the set to train on: a cap in px, or `full`")
    min_scale: float = Field(
        0.08, gt=0, le=1, description="the smallest share of an image's area that a random crop keeps"
    )
    rectangular_val: bool = Field(
        False, description="validate on rectangles, cut to the mean shape of their batch, instead of squares"
    )
    val_data: BetonSet = Field(
        default_factory=lambda phase: phase["data"], description="the set to validate on; by default that of `data`"
    )
    val_px: int = Field(
        default_factory=lambda phase: phase["px"],
        ge=8,
        le=MOST_PX,
        description="side of a validation crop; for rectangles, the shorter side; by default `px`",
    )
    val_resize: int | None = Field(
        None,
        ge=8,
        le=2 * MOST_PX,
        description="shorter side that a validation image is resized to before its centre is cut out; by default "
        "int(1.14 · `val_px`)",
    )
    val_batch: int = Field(
        default_factory=lambda phase: max(phase["batch_per_gpu"], {128: 512, 224: 256}.get(phase["px"], 128)),
        ge=1,
        le=1 << 20,
        description="images in a validation batch; by default 512 at 128 px, 256 at 224, else 128, or `batch_per_gpu` "
        "if that is more",
    )
    lr: tuple[Ramp, ...] = Field(
        (),
        description="ramps `{epochs: [a, b], from: x, to: y}` of the rate for the whole job; those of all phases "
        "together cover every epoch once. Linear, unless they have `shape: cosine`, or `shape: polynomial` and "
        "`power: n`",
    )
    momentum: tuple[Ramp, ...] = Field(
        (), description="ramps of momentum, in the same way; by default `train.momentum`"
    )
    px_ramp: PxRamp | None = Field(
        None,
        description="`{from: px, epochs: [a, b]}`: over these epochs, which may be fractions, the size goes from "
        "`from` to `px`, in multiples of 32, or of `multiple: n`; by default one size",
    )

    @field_validator("batch_per_gpu")
    @classmethod
    def _normalises_several_values(cls, batch: int, others: ValidationInfo) -> int:
        px = others.data.get("px", MOST_PX)
        if batch == 1 and px <= STRIDE:
            raise OptionError(
                f"1 at {px} px: BatchNorm would see one value per channel, as the last feature map is 1 x 1",
                remedy=f"give 2 or more, or more than {STRIDE} px",
            )
        return batch

    @field_validator("val_resize")
    @classmethod
    def _holds_the_crop(cls, resize: int | None, others: ValidationInfo) -> int | None:
        px = others.data.get("val_px", 0)
        if resize is not None and resize < px:
            raise OptionError(f"{resize} is smaller than the crop of {px} px", remedy="give at least val_px")
        return resize

    @field_validator("momentum")
    @classmethod
    def _is_momentum(cls, ramps: tuple[Ramp, ...]) -> tuple[Ramp, ...]:
        for number, ramp in enumerate(ramps):
            for key, value in (("from", ramp.first), ("to", ramp.last)):
                # At 0, torch's SGD would leave its momentum buffer as it is and use it again afterwards.
                if not 0 < value < 1:
                    raise OptionError(f"{value} is not a momentum (above 0 and below 1)", where=f"[{number}].{key}")
        return ramps

    @property
    def start(self) -> int:
        return self.epochs[0]

    @property
    def end(self) -> int:
        return self.epochs[1]

    @property
    def span(self) -> str:
        """Its epochs, counted from 1: ``1-18``, or ``19`` alone."""
        return f"{self.start + 1}-{self.end}" if self.end > self.start + 1 else str(self.end)

    @property
    def val_shorter_px(self) -> int:
        """The shorter side that a validation image is resized to."""
        return int(self.val_px * 1.14) if self.val_resize is None else self.val_resize

    def of_one_size(self) -> Iterator[Phase]:
        """Itself, or with ``px_ramp`` a phase for each size, of which the first has the ramps."""
        if self.px_ramp is None:
            yield self
            return
        sizes = {epoch: self.px_ramp.px(epoch, self.px) for epoch in range(*self.epochs)}
        changes = [epoch for epoch in sizes if sizes[epoch] != sizes.get(epoch - 1)]
        given = {name: getattr(self, name) for name in self.model_fields_set - {"px_ramp"}}
        for first, after in pairwise([*changes, self.end]):
            yield Phase(**given | {"epochs": (first, after), "px": sizes[first]})
            given |= {"lr": (), "momentum": ()}


class Schedule(Section):
    """epochs, sizes, batches, learning rates"""

    phases: tuple[Phase, ...] = Field(description="the phases, a list in the YAML; or give `imagenet18`")
    imagenet18: str | None = Field(
        None, description="instead of `phases`: the same in the published one-line syntax; by default `phases`"
    )
    gpus: int = Field(
        1,
        ge=1,
        description="total number of GPUs that the learning rates are meant for; with another, a note is printed",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_imagenet18(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given  # a schedule, or a mistake
        text = given.get("imagenet18")
        if (given.get("phases") is None) == (text is None):
            what = "give either phases or imagenet18 (a recipe: --config-file rn50_configs/titan8.yaml)"
            raise OptionError(what, where="phases")
        return given if text is None else given | {"phases": imagenet18.phases(text), "imagenet18": None}

    @field_validator("phases")
    @classmethod
    def _tile_the_training(cls, given: tuple[Phase, ...]) -> tuple[Phase, ...]:
        phases = tuple(each for phase in given for each in phase.of_one_size())
        if not phases:
            raise OptionError("empty", remedy="give at least one phase")
        end = phases[-1].end
        _check_tiling("[].epochs", phases, end)
        _check_tiling("[].lr[].epochs", _sorted(ramp for phase in phases for ramp in phase.lr), end, "no learning rate")
        if momenta := _sorted(ramp for phase in phases for ramp in phase.momentum):
            _check_tiling("[].momentum[].epochs", momenta, end, "no momentum")
        return phases

    @cached_property
    def lr_ramps(self) -> tuple[Ramp, ...]:
        return _sorted(ramp for phase in self.phases for ramp in phase.lr)

    @cached_property
    def momentum_ramps(self) -> tuple[Ramp, ...]:
        """Empty if momentum is ``train.momentum`` throughout."""
        return _sorted(ramp for phase in self.phases for ramp in phase.momentum)

    @property
    def epochs(self) -> int:
        return self.phases[-1].end

    @property
    def highest_lr(self) -> float:
        """The highest learning rate of all."""
        return max(rate for ramp in self.lr_ramps for rate in (ramp.first, ramp.last))

    def phase(self, epoch: int) -> Phase:
        """The phase of ``epoch`` (from 0). IndexError outside the schedule."""
        return _covering(self.phases, epoch)

    def lr(self, epoch: int, batch: int, batches: int) -> float:
        """Learning rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0)."""
        return _covering(self.lr_ramps, epoch).at(epoch, batch, batches)

    def momentum(self, epoch: int, batch: int, batches: int) -> float | None:
        """Momentum of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0); None without ramps."""
        return _covering(self.momentum_ramps, epoch).at(epoch, batch, batches) if self.momentum_ramps else None

    def betons(self) -> tuple[str, ...]:
        """Names of the betons used, each once, in order of first use: ``train_160``, ``val_160``, ..."""
        names = [name for p in self.phases for name in (f"train_{p.data}", f"val_{p.val_data}")]
        return tuple(dict.fromkeys(names))


P = TypeVar("P", Phase, Ramp)


def _sorted(ramps: Iterable[Ramp]) -> tuple[Ramp, ...]:
    return tuple(sorted(ramps, key=lambda ramp: ramp.start))


def _check_tiling(where: str, parts: Sequence[Phase] | Sequence[Ramp], epochs: int, missing: str = "") -> None:
    at = 0
    for part in parts:
        if part.start != at:
            kind, low, high = ("gap", at, part.start) if part.start > at else ("overlap", part.start, at)
            what, remedy = f"{kind} between epochs {low} and {high}", "each part must begin where the last ended"
            raise OptionError(what, where=where, remedy=remedy)
        at = part.end
    if at != epochs:
        kind = missing if at < epochs else f"a {missing.removeprefix('no ')} but no phase"
        raise OptionError(f"{kind} for epochs {min(at, epochs)} to {max(at, epochs)}", where=where)


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
