"""A phase of a schedule, with its keys in the YAML, and the ramps of learning rate, momentum and size in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from data_tools.common.options import OptionError, Section

FULL = "full"  # the set of full-size images
MOST_EPOCHS = 100_000  # a checkpoint keeps a line of text for each
MOST_PX = 4096
LONGEST = 16  # times the shorter side of a rectangle: one strip of 40,000 x 2 px would take the memory of a whole set
STRIDE = 32  # of a ResNet: its last feature map has ceil(px / 32) squared values per channel
ENDS = "give [a, b], which begins after epoch a and ends after epoch b"

Number = TypeVar("Number", int, float)


def _pair(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    raise OptionError(f"{value!r} is not a pair of epochs", remedy=ENDS)


def _range(epochs: tuple[Number, Number]) -> tuple[Number, Number]:
    if epochs[1] > MOST_EPOCHS:
        raise OptionError(f"{list(epochs)} has more than {MOST_EPOCHS:,} epochs")
    if not 0 <= epochs[0] < epochs[1]:
        raise OptionError(f"{list(epochs)} is empty or runs backwards", remedy=ENDS)
    return epochs


def _beton_set(name: str) -> str:
    if name == FULL or (name.isascii() and name.isdigit() and not name.startswith("0")):
        return name
    raise OptionError(f"{name!r} is not a beton set", remedy="give a cap in px, or full")


Epochs = Annotated[tuple[int, int], BeforeValidator(_pair), AfterValidator(_range)]
PartsOfEpochs = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_range)]
BetonSet = Annotated[str, AfterValidator(_beton_set)]


class EpochRange(Section):
    """Epochs ``[start, end)``."""

    epochs: Epochs

    @property
    def start(self) -> int:
        return self.epochs[0]

    @property
    def end(self) -> int:
        return self.epochs[1]


class Ramp(EpochRange):
    """A change from one value to another.

    ``shape``: ``linear``; ``cosine``, half a period, as torch's CosineAnnealingLR; ``polynomial``, as torch's
    PolynomialLR: the difference to the last value is as the ``power`` of the share of batches that are left.
    """

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

    def at(self, epoch: int, batch: float, batches: float) -> float:
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


class Phase(EpochRange):
    """Epochs that are trained at one size, or with ``px_ramp`` at several."""

    epochs: Epochs = Field(
        description="`[a, b]`: begins after epoch a and ends after epoch b, counted from 1; no gap or overlap between "
        "phases"
    )
    px: int = Field(ge=8, le=MOST_PX, description="side of the square training crop")
    batch_per_gpu: int = Field(ge=1, le=1 << 20, description="images per GPU and step")
    data: BetonSet = Field(description="the set to train on: a cap in px, or `full`")
    min_scale: float = Field(
        0.08, gt=0, le=1, description="the smallest share of an image's area that a random crop keeps"
    )
    rectangular_val: bool = Field(
        False,
        description="validate on rectangles, cut to the mean shape of their batch and at most "
        f"{LONGEST} times as long as their shorter side, instead of squares",
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
        description="shorter side of a validation image before its centre is cut out; by default int(1.14 · `val_px`)",
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
        "cover every epoch once. Linear, or with `shape: cosine`, or `shape: polynomial` and `power: n`",
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
