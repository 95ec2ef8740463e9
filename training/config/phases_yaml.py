"""A recipe's ``phases`` list, as it stands in the YAML, read as a :class:`~training.phases.Schedule`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from data_tools.common.options import OptionError, nearest
from training.config.schedule import LrRamp, Phase, Schedule, check_span


def from_phases(entries: object) -> Schedule:
    """The schedule of a recipe's ``phases`` list (see ``rn50_configs/titan8.yaml``).

    OptionError names the key at fault and the nearest valid one.
    """
    if not isinstance(entries, list | tuple):
        raise OptionError("phases: not a list; see rn50_configs/titan8.yaml")
    phases: list[Phase] = []
    ramps: list[LrRamp] = []
    for number, entry in enumerate(entries):
        where = f"phases[{number}]"
        sessions, own_ramps = _phase(where, entry)
        phases.extend(sessions)
        ramps.extend(own_ramps)
    return Schedule(phases=tuple(phases), ramps=tuple(sorted(ramps, key=lambda r: r.start)))


def to_phases(schedule: Schedule) -> list[object]:
    """A schedule made in Python as the ``phases`` list of a recipe: what :func:`from_phases` makes the same of."""
    return [
        {
            "epochs": [phase.start, phase.end],
            "px": phase.px,
            "batch_per_gpu": phase.batch_per_gpu,
            "data": phase.data,
            "lr": [
                {"epochs": [ramp.start, ramp.end], "from": ramp.lr_from, "to": ramp.lr_to}
                for ramp in schedule.ramps
                if phase.start <= ramp.start < phase.end
            ],
            "min_scale": phase.min_scale,
            "rectangular_val": phase.rectangular,
            "val_data": phase.val_data,
            "val_px": phase.val_px,
            "val_batch": phase.val_batch,
        }
        for phase in schedule.phases
    ]


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


def _phase(where: str, entry: object) -> tuple[list[Phase], list[LrRamp]]:
    entry = _mapping(where, entry, _PHASE_KEYS)
    start, end = _span(f"{where}.epochs", entry["epochs"])
    check_span(f"{where}.epochs", start, end)
    batch, data = _int(f"{where}.batch_per_gpu", entry["batch_per_gpu"]), _set_name(f"{where}.data", entry["data"])
    rectangular = entry.get("rectangular_val", False)
    if not isinstance(rectangular, bool):
        raise OptionError(f"{where}.rectangular_val: {rectangular!r} is neither true nor false")
    lr = entry.get("lr", [])
    if not isinstance(lr, list | tuple):
        raise OptionError(f"{where}.lr: not a list of {{epochs: [a, b], from: x, to: y}}")
    given: dict[str, Any] = {"rectangular": rectangular}
    for key, read in (("min_scale", _float), ("val_data", _set_name), ("val_px", _int), ("val_batch", _int)):
        if key in entry:
            given[key] = read(f"{where}.{key}", entry[key])
    phases = [
        Phase.of(start=first, end=after, px=px, batch_per_gpu=batch, data=data, **given)
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
    check_span(f"{where}.px_ramp.epochs", low, high)

    def size(epoch: int) -> int:
        if epoch <= low or epoch >= high:
            return px_from if epoch <= low else px
        return round((px_from + (px - px_from) * (epoch - low) / (high - low)) / 32) * 32

    changes = [e for e in range(start, end) if e == start or size(e) != size(e - 1)]
    return [(first, after, size(first)) for first, after in pairwise([*changes, end])]


def _ramp(where: str, entry: object) -> LrRamp:
    entry = _mapping(where, entry, _RAMP_KEYS)
    start, end = _span(f"{where}.epochs", entry["epochs"])
    lr_from, lr_to = (_float(f"{where}.{key}", entry[key]) for key in ("from", "to"))
    return LrRamp(start=start, end=end, lr_from=lr_from, lr_to=lr_to)


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
