"""Reads a recipe's ``phases`` list as a :class:`~training.config.schedule.Schedule`."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from data_tools.common.options import REQUIRED, OptionError, convert, nearest, option
from training.config.schedule import LrRamp, Phase, Schedule, check_span


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseKeys(Phase):
    """Every key of a phase in the YAML: those of :class:`Phase` and a few more."""

    epochs: list[int] = option(
        REQUIRED,
        "`[a, b]`: from after epoch a to epoch b, counted from 1; the phases follow each other without gap or overlap",
    )
    lr: list[object] = option(
        [],
        "ramps `{epochs: [a, b], from: x, to: y}`, for the whole job; those of all phases together cover every epoch "
        "once",
    )
    px_ramp: dict[str, object] | None = option(
        None,
        "`{from: px, epochs: [a, b]}`: over these epochs the size goes from there to `px`, in multiples of 32",
        none="one size",
    )


OWN = ("epochs", "lr", "px_ramp")  # read here; the others go to Phase as they are
KEYS = tuple(dict.fromkeys(["epochs", *(f.name for f in fields(PhaseKeys) if f.name not in ("start", "end"))]))
NEEDED = ("epochs", "px", "batch_per_gpu", "data")
RAMP_KEYS = ("epochs", "from", "to")


def from_phases(entries: object) -> Schedule:
    """The schedule of a recipe's ``phases`` list (see ``rn50_configs/titan8.yaml``).

    OptionError names the key at fault and the nearest valid one.
    """
    if not isinstance(entries, list | tuple):
        raise OptionError("not a list", where="phases", remedy="see rn50_configs/titan8.yaml")
    phases: list[Phase] = []
    ramps: list[LrRamp] = []
    for number, entry in enumerate(entries):
        where = f"phases[{number}]"
        keys = _mapping(where, entry, KEYS, NEEDED)
        phases.extend(_phases(where, keys))
        ramps.extend(_ramp(f"{where}.lr[{i}]", ramp) for i, ramp in enumerate(_list(f"{where}.lr", keys.get("lr", []))))
    return Schedule(phases=tuple(phases), ramps=tuple(sorted(ramps, key=lambda r: r.start)))


def to_phases(schedule: Schedule) -> list[object]:
    """A schedule made in Python as the ``phases`` list of a recipe; the inverse of :func:`from_phases`."""
    return [
        {
            "epochs": [phase.start, phase.end],
            **{key: getattr(phase, key) for key in KEYS if key not in OWN},
            "lr": [
                {"epochs": [ramp.start, ramp.end], "from": ramp.lr_from, "to": ramp.lr_to}
                for ramp in schedule.ramps
                if phase.start <= ramp.start < phase.end
            ],
        }
        for phase in schedule.phases
    ]


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
    the even multiple), as ffcv-imagenet's ``resolution`` section does it.
    """
    if entry.get("px_ramp") is None:
        return [(start, end, px)]
    ramp = _mapping(f"{where}.px_ramp", entry["px_ramp"], ("from", "epochs"), ("from", "epochs"))
    px_from = int(_value(f"{where}.px_ramp.from", ramp["from"], int))
    low, high = _span(f"{where}.px_ramp.epochs", ramp["epochs"])
    check_span(f"{where}.px_ramp.epochs", low, high)

    def size(epoch: int) -> int:
        if epoch <= low or epoch >= high:
            return px_from if epoch <= low else px
        return round((px_from + (px - px_from) * (epoch - low) / (high - low)) / 32) * 32

    changes = [e for e in range(start, end) if e == start or size(e) != size(e - 1)]
    return [(first, after, size(first)) for first, after in pairwise([*changes, end])]


def _ramp(where: str, entry: object) -> LrRamp:
    entry = _mapping(where, entry, RAMP_KEYS, RAMP_KEYS)
    start, end = _span(f"{where}.epochs", entry["epochs"])
    lr_from, lr_to = (_value(f"{where}.{key}", entry[key], float) for key in ("from", "to"))
    return LrRamp(start=start, end=end, lr_from=lr_from, lr_to=lr_to)


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


def _span(where: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        remedy = "give [first epoch, epoch after the last]"
        raise OptionError(f"{value!r} has no end", where=where, remedy=remedy)
    return _value(where, value[0], int), _value(where, value[1], int)
