"""The schedule: position in training -> px, batch, data set, learning rate, momentum. Pure functions of position.

A :class:`Phase` is a range of epochs with one image size and one batch size; a :class:`Ramp` is a range of epochs over
which the learning rate, or momentum, goes from one value to another. Each kind tiles the training without gap or
overlap, independently of the others, as in the published imagenet18 schedules. There is no state, so a run can resume
anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from data_tools.common.console import plural
from data_tools.common.options import OptionError, Section, as_meant
from training.config import imagenet18
from training.config.phases import FULL, EpochRange, Phase, Ramp

VAL_COST = 1 / 3  # a validation image needs only the forward pass; a training image costs three of those

__all__ = ["FULL", "Phase", "Ramp", "Schedule", "batches_per_epoch"]


class Schedule(Section):
    """epochs, sizes, batches, learning rates"""

    phases: tuple[Phase, ...] = Field(description="the phases, a list in the YAML; or give `imagenet18`")
    imagenet18: str | None = Field(
        None, description="instead of `phases`: the same in the published one-line syntax; by default `phases`"
    )
    gpus: int = Field(
        1,
        ge=1,
        le=1 << 20,
        description="total number of GPUs that the learning rates are meant for; with another, a note is printed",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_imagenet18(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given  # a schedule, or a mistake
        text = as_meant(given.get("imagenet18"), str | None)
        if (given.get("phases") is None) == (text is None):
            what = "give either phases or imagenet18 (a recipe: --config-file rn50_configs/titan8.yaml)"
            raise OptionError(what, where="phases")
        return given if text is None else given | {"phases": imagenet18.phases(text), "imagenet18": None}

    @field_validator("phases")
    @classmethod
    def _of_one_size(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        return tuple(each for phase in phases for each in phase.of_one_size())

    @model_validator(mode="after")
    def _tile_the_training(self) -> Self:
        if not self.phases:
            raise OptionError("empty", where="phases", remedy="give at least one phase")
        _check_tiling("phases[].epochs", self.phases, self.epochs)
        _check_tiling("phases[].lr[].epochs", self.lr_ramps, self.epochs, "no learning rate")
        if self.momentum_ramps:
            _check_tiling("phases[].momentum[].epochs", self.momentum_ramps, self.epochs, "no momentum")
        return self

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
        return max(rate for ramp in self.lr_ramps for rate in (ramp.first, ramp.last))

    def phase(self, epoch: int) -> Phase:
        """The phase of ``epoch`` (from 0). IndexError outside the schedule."""
        return _covering(self.phases, epoch)

    def lr(self, epoch: int, batch: float, batches: float) -> float:
        """Learning rate of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0).

        They are fractions in an epoch that began with another batch.
        """
        return _covering(self.lr_ramps, epoch).at(epoch, batch, batches)

    def momentum(self, epoch: int, batch: float, batches: float) -> float | None:
        """Momentum of batch ``batch`` (counted from 1) of ``batches`` in ``epoch`` (from 0); None without ramps."""
        return _covering(self.momentum_ramps, epoch).at(epoch, batch, batches) if self.momentum_ramps else None

    def betons(self) -> tuple[str, ...]:
        """Names of the betons used, each once, in order of first use: ``train_160``, ``val_160``, ..."""
        names = [name for p in self.phases for name in (f"train_{p.data}", f"val_{p.val_data}")]
        return tuple(dict.fromkeys(names))


P = TypeVar("P", bound=EpochRange)


def _sorted(ramps: Iterable[Ramp]) -> tuple[Ramp, ...]:
    return tuple(sorted(ramps, key=lambda ramp: ramp.start))


def _check_tiling(where: str, parts: Sequence[EpochRange], epochs: int, missing: str = "") -> None:
    at = 0
    for part in parts:
        if part.start != at:
            kind = "gap" if part.start > at else "overlap"
            what = f"{kind} at {_from_one(min(at, part.start), max(at, part.start))}"
            raise OptionError(what, where=where, remedy="each must begin where the one before ends")
        at = part.end
    if at != epochs:
        kind = missing if at < epochs else f"a {missing.removeprefix('no ')} but no phase"
        raise OptionError(f"{kind} for {_from_one(min(at, epochs), max(at, epochs))}", where=where)


def _from_one(start: int, end: int) -> str:
    """Epochs ``[start, end)`` in words, counted from 1."""
    return f"epoch {end}" if end == start + 1 else f"epochs {start + 1} to {end}"


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
