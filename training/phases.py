"""The schedule: position in training -> px, batch, data set, learning rate. Pure functions of position.

A :class:`Phase` is a stretch of epochs with one image size and one batch size; a :class:`Ramp` is a stretch of
epochs over which the learning rate goes linearly from one value to another. Both tile the training without gap or
overlap, independently of each other, as in the published imagenet18 schedules. Nothing here holds state, so
resuming anywhere is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from data_tools.options import OptionError
from data_tools.values import nearest

FULL = "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp:
    """Learning rate, for the whole job, from ``lr_from`` to ``lr_to`` over epochs ``[start, end)``."""

    start: int
    end: int
    lr_from: float
    lr_to: float

    def __post_init__(self) -> None:
        _check_span("phases[].lr[].epochs", self.start, self.end)
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
    training crop, ``val_px`` (by default the same) the short side of a validation crop; ``min_scale`` is the least
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
        _check_span("phases[].epochs", self.start, self.end)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Phases and learning-rate ramps, each tiling epochs ``[0, epochs)`` exactly."""

    phases: tuple[Phase, ...]
    ramps: tuple[Ramp, ...]

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


def from_phases(entries: object) -> Schedule:
    """The schedule of a recipe's ``phases`` list (see ``rn50_configs/titan8.yaml``).

    OptionError names the key at fault and the nearest valid one.
    """
    if not isinstance(entries, list | tuple):
        raise OptionError("phases: not a list; see rn50_configs/titan8.yaml")
    phases: list[Phase] = []
    ramps: list[Ramp] = []
    for number, entry in enumerate(entries):
        where = f"phases[{number}]"
        stretches, own_ramps = _phase(where, entry)
        phases.extend(stretches)
        ramps.extend(own_ramps)
    return Schedule(phases=tuple(phases), ramps=tuple(sorted(ramps, key=lambda r: r.start)))


_PHASE_KEYS = {
    "epochs": True,
    "px": True,
    "batch_per_gpu": True,
    "data": True,
    "lr": False,
    "px_ramp": False,
    "min_scale": False,
    "rectangular_val": False,
    "val_data": False,
    "val_px": False,
    "val_batch": False,
}
_RAMP_KEYS = {"epochs": True, "from": True, "to": True}


_PX_RAMP_KEYS = {"from": True, "epochs": True}


def _phase(where: str, entry: object) -> tuple[list[Phase], list[Ramp]]:
    entry = _mapping(where, entry, _PHASE_KEYS)
    start, end = _span(f"{where}.epochs", entry["epochs"])
    _check_span(f"{where}.epochs", start, end)
    batch, data = _int(f"{where}.batch_per_gpu", entry["batch_per_gpu"]), _set_name(f"{where}.data", entry["data"])
    rectangular = entry.get("rectangular_val", False)
    if not isinstance(rectangular, bool):
        raise OptionError(f"{where}.rectangular_val: {rectangular!r} is neither true nor false")
    lr = entry.get("lr", [])
    if not isinstance(lr, list | tuple):
        raise OptionError(f"{where}.lr: not a list of {{epochs: [a, b], from: x, to: y}}")
    phases = [
        Phase(
            start=first,
            end=after,
            px=px,
            batch_per_gpu=batch,
            data=data,
            min_scale=_float(f"{where}.min_scale", entry.get("min_scale", 0.08)),
            rectangular=rectangular,
            val_data=_set_name(f"{where}.val_data", entry.get("val_data", data)),
            val_px=_int(f"{where}.val_px", entry.get("val_px", px)),
            val_batch=_int(f"{where}.val_batch", entry.get("val_batch", default_val_batch(px, batch))),
        )
        for first, after, px in _sizes(where, entry, start, end)
    ]
    return phases, [_ramp(f"{where}.lr[{i}]", ramp) for i, ramp in enumerate(lr)]


def _sizes(where: str, entry: Mapping[str, Any], start: int, end: int) -> list[tuple[int, int, int]]:
    """Stretches (first epoch, epoch after the last, px): one, or with ``px_ramp`` one for each size on the way.

    Over the ramp's epochs the size goes linearly from ``from`` to ``px``, rounded to multiples of 32 (halves to the
    even multiple), as ffcv-imagenet's ``resolution`` section does it.
    """
    px = _int(f"{where}.px", entry["px"])
    if "px_ramp" not in entry:
        return [(start, end, px)]
    ramp = _mapping(f"{where}.px_ramp", entry["px_ramp"], _PX_RAMP_KEYS)
    px_from, (low, high) = _int(f"{where}.px_ramp.from", ramp["from"]), _span(f"{where}.px_ramp.epochs", ramp["epochs"])
    _check_span(f"{where}.px_ramp.epochs", low, high)

    def size(epoch: int) -> int:
        if epoch <= low or epoch >= high:
            return px_from if epoch <= low else px
        return round((px_from + (px - px_from) * (epoch - low) / (high - low)) / 32) * 32

    changes = [e for e in range(start, end) if e == start or size(e) != size(e - 1)]
    return [(first, after, size(first)) for first, after in pairwise([*changes, end])]


def _ramp(where: str, entry: object) -> Ramp:
    entry = _mapping(where, entry, _RAMP_KEYS)
    start, end = _span(f"{where}.epochs", entry["epochs"])
    lr_from, lr_to = (_float(f"{where}.{key}", entry[key]) for key in ("from", "to"))
    return Ramp(start=start, end=end, lr_from=lr_from, lr_to=lr_to)


def _mapping(where: str, entry: object, keys: Mapping[str, bool]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise OptionError(f"{where}: not a mapping with the keys {', '.join(keys)}")
    for key in entry:
        if key not in keys:
            raise OptionError(f"{where}.{key}: unknown key{nearest(key, keys)}")
    for key, required in keys.items():
        if required and key not in entry:
            raise OptionError(f"{where}.{key}: missing")
    return entry


def _int(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{where}: {value!r} is not a whole number")
    return value


def _float(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = " (YAML reads 1e-3 as text; write 1.0e-3)" if isinstance(value, str) else ""
        raise OptionError(f"{where}: {value!r} is not a finite number{hint}")
    return float(value)


def _set_name(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise OptionError(f"{where}: {value!r} is no beton set; give a cap in px or 'full'")
    return str(value)


def _span(where: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise OptionError(f"{where}: {value!r} has no end; give [first epoch, epoch after the last]")
    return _int(where, value[0]), _int(where, value[1])


def _check_span(where: str, start: int, end: int) -> None:
    if not 0 <= start < end:
        raise OptionError(
            f"{where}: [{start}, {end}] is empty or runs backwards; give [first epoch, epoch after the last]"
        )


def _check_tiling(where: str, parts: Sequence[Phase] | Sequence[Ramp], epochs: int) -> None:
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


P = TypeVar("P", Phase, Ramp)


def _covering(parts: Sequence[P], epoch: int) -> P:
    for part in parts:
        if part.start <= epoch < part.end:
            return part
    raise IndexError(f"epoch {epoch} is outside the schedule's {parts[-1].end} epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One training batch of the plan; ``batch`` counts from 1 as the ramp does."""

    epoch: int
    batch: int
    batches: int
    phase: Phase
    lr: float


def batches_per_epoch(images: int, batch_per_gpu: int, gpus: int) -> int:
    """Full global batches in ``images``; the ragged rest of an epoch is left out, it comes up in the next."""
    return images // (batch_per_gpu * gpus)


def plan(schedule: Schedule, images: Mapping[str, int], gpus: int) -> Iterator[Batch]:
    """Every training batch of a run on ``gpus`` GPUs, in order; ``images`` by beton set (``{"160": 1281167}``)."""
    for epoch in range(schedule.epochs):
        phase = schedule.phase(epoch)
        batches = batches_per_epoch(images[phase.data], phase.batch_per_gpu, gpus)
        for batch in range(1, batches + 1):
            yield Batch(epoch=epoch, batch=batch, batches=batches, phase=phase, lr=schedule.lr(epoch, batch, batches))
