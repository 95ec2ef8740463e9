"""Reads a recipe's ``phases`` list as a :class:`~training.config.schedule.Schedule`."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from data_tools.common.options import REQUIRED, OptionError, convert, nearest, option
from training.config.schedule import LrRamp, MomentumRamp, Phase, Ramp, Schedule, check_span


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseKeys(Phase):
    """Every key of a phase in the YAML: those of :class:`Phase` and a few more."""

    epochs: list[int] = option(
        REQUIRED,
        "`[a, b]`: begins after epoch a and ends after epoch b, counted from 1; the phases follow each other without "
        "gap or overlap",
    )
    lr: list[object] = option(
        [],
        "ramps `{epochs: [a, b], from: x, to: y}` of the rate for the whole job; those of all phases together cover "
        "every epoch once. Linear, unless they have `shape: cosine`, or `shape: polynomial` and `power: n`",
    )
    momentum: list[object] = option([], "ramps of momentum, in the same way", none="`train.momentum`")
    px_ramp: dict[str, object] | None = option(
        None,
        "`{from: px, epochs: [a, b]}`: over these epochs, which may be fractions, the size goes from `from` to `px`, "
        "in multiples of 32, or of `multiple: n`",
        none="one size",
    )


OWN = ("epochs", "lr", "momentum", "px_ramp")  # read here; the others go to Phase as they are
KEYS = tuple(dict.fromkeys(["epochs", *(f.name for f in fields(PhaseKeys) if f.name not in ("start", "end"))]))
NEEDED = ("epochs", "px", "batch_per_gpu", "data")
RAMP_KEYS = ("epochs", "from", "to", "shape", "power")
RAMP_NEEDED = RAMP_KEYS[:3]


def from_phases(entries: object) -> Schedule:
    """The schedule of a recipe's ``phases`` list (see ``rn50_configs/titan8.yaml``).

    OptionError names the key at fault and the nearest valid one.
    """
    if not isinstance(entries, list | tuple):
        raise OptionError("not a list", where="phases", remedy="see rn50_configs/titan8.yaml")
    phases: list[Phase] = []
    rates: list[LrRamp] = []
    momenta: list[MomentumRamp] = []
    for number, entry in enumerate(entries):
        where = f"phases[{number}]"
        keys = _mapping(where, entry, KEYS, NEEDED)
        with _numbered("phases[]", where):
            phases.extend(_phases(where, keys))
        for at, lr_from, lr_to, ramp in _ramps(where, "lr", keys):
            with _numbered("phases[].lr[]", at):
                rates.append(LrRamp(lr_from=lr_from, lr_to=lr_to, **ramp))
        for at, momentum_from, momentum_to, ramp in _ramps(where, "momentum", keys):
            with _numbered("phases[].momentum[]", at):
                momenta.append(MomentumRamp(momentum_from=momentum_from, momentum_to=momentum_to, **ramp))
    return Schedule(
        phases=tuple(phases),
        ramps=tuple(sorted(rates, key=lambda r: r.start)),
        momentum_ramps=tuple(sorted(momenta, key=lambda r: r.start)),
    )


def to_phases(schedule: Schedule) -> list[object]:
    """A schedule made in Python as the ``phases`` list of a recipe; the inverse of :func:`from_phases`."""
    return [
        {
            "epochs": [phase.start, phase.end],
            **{key: getattr(phase, key) for key in KEYS if key not in OWN},
            "lr": [_written(r, r.lr_from, r.lr_to) for r in schedule.ramps if phase.start <= r.start < phase.end],
            "momentum": [
                _written(r, r.momentum_from, r.momentum_to)
                for r in schedule.momentum_ramps
                if phase.start <= r.start < phase.end
            ],
        }
        for phase in schedule.phases
    ]


def _written(ramp: Ramp, first: float, last: float) -> dict[str, object]:
    written: dict[str, object] = {"epochs": [ramp.start, ramp.end], "from": first, "to": last, "shape": ramp.shape}
    return written if ramp.power is None else written | {"power": ramp.power}


@contextlib.contextmanager
def _numbered(part: str, where: str) -> Iterator[None]:
    """An OptionError of a part of the schedule says which of the list's it is."""
    try:
        yield
    except OptionError as error:
        raise OptionError(error.what, where=error.where.replace(part, where), remedy=error.remedy) from None


def _phases(where: str, entry: Mapping[str, Any]) -> Iterator[Phase]:
    """One phase, or with ``px_ramp`` one for each size."""
    hints = typing.get_type_hints(Phase)
    given = {key: _value(f"{where}.{key}", entry[key], hints[key]) for key in entry if key not in OWN}
    start, end = _span(f"{where}.epochs", entry["epochs"])
    check_span(f"{where}.epochs", start, end)
    for first, after, px in _sizes(where, entry, start, end, given["px"]):
        yield Phase(start=first, end=after, **given | {"px": px})


def _sizes(where: str, entry: Mapping[str, Any], start: int, end: int, px: int) -> list[tuple[int, int, int]]:
    """(first epoch, epoch after the last, px) of each size.

    Over the epochs of ``px_ramp`` the size goes linearly from ``from`` to ``px``, rounded to multiples of 32 (halves to
    the even multiple), as ffcv-imagenet's ``resolution`` section does it, or of ``multiple``, as composer's
    ProgressiveResizing.
    """
    if entry.get("px_ramp") is None:
        return [(start, end, px)]
    ramp = _mapping(f"{where}.px_ramp", entry["px_ramp"], ("from", "epochs", "multiple"), ("from", "epochs"))
    px_from = int(_value(f"{where}.px_ramp.from", ramp["from"], int))
    multiple = int(_value(f"{where}.px_ramp.multiple", ramp.get("multiple", 32), int))
    if multiple < 1:
        raise OptionError(f"{multiple} is not a number of px above 0", where=f"{where}.px_ramp.multiple")
    low, high = map(float, _span(f"{where}.px_ramp.epochs", ramp["epochs"], float))
    check_span(f"{where}.px_ramp.epochs", low, high)

    def size(epoch: int) -> int:
        if epoch <= low or epoch >= high:
            return px_from if epoch <= low else px
        return round((px_from + (px - px_from) * (epoch - low) / (high - low)) / multiple) * multiple

    changes = [e for e in range(start, end) if e == start or size(e) != size(e - 1)]
    return [(first, after, size(first)) for first, after in pairwise([*changes, end])]


def _ramps(where: str, key: str, keys: Mapping[str, Any]) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """(where it is, first value, last value, what any ramp has) of each ramp under ``key`` of a phase."""
    for number, entry in enumerate(_list(f"{where}.{key}", keys.get(key, []))):
        at = f"{where}.{key}[{number}]"
        ramp = _mapping(at, entry, RAMP_KEYS, RAMP_NEEDED)
        start, end = _span(f"{at}.epochs", ramp["epochs"])
        first, last = (_value(f"{at}.{end_of}", ramp[end_of], float) for end_of in ("from", "to"))
        power = None if ramp.get("power") is None else _value(f"{at}.power", ramp["power"], float)
        yield at, first, last, {"start": start, "end": end, "shape": ramp.get("shape", "linear"), "power": power}


def _mapping(where: str, entry: object, keys: tuple[str, ...], needed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise OptionError(f"not a mapping with the keys {', '.join(keys)}", where=where)
    for key in entry:
        if key not in keys:
            raise OptionError(f"unknown key{nearest(key, keys)}", where=f"{where}.{key}")
    for key in needed:
        if key not in entry:
            raise OptionError("missing", where=f"{where}.{key}")
    return entry


def _list(where: str, value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise OptionError("not a list of {epochs: [a, b], from: x, to: y}", where=where)
    return list(value)


def _value(where: str, value: object, kind: Any) -> Any:
    try:
        return convert(value, kind)
    except ValueError as error:
        raise OptionError(str(error), where=where) from None


def _span(where: str, value: object, kind: Any = int) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        remedy = "give [first epoch, epoch after the last]"
        raise OptionError(f"{value!r} has no end", where=where, remedy=remedy)
    return _value(where, value[0], kind), _value(where, value[1], kind)
