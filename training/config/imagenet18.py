"""The published one-line schedule syntax of imagenet18, read as the ``phases`` of a recipe.

``[{'ep': 0, 'sz': 128, 'bs': 512, 'trndir': '-sz/160'}, {'ep': (0, 7), 'lr': (1.0, 2.0)}, ...]``: an entry with
``bs`` starts a phase at epoch ``ep``; an entry with ``lr`` ramps over ``ep: (a, b)``, or holds one rate from ``ep: n``
until the next entry with a rate. Only literals are read; nothing is evaluated.
"""

import ast
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from data_tools.common.options import OptionError, nearest
from training.config.phases import FULL

KEY = "imagenet18"
_ENTRY_KEYS = ("ep", "sz", "bs", "trndir", "valdir", "min_scale", "rect_val", "keep_dl", "lr")


def phases(text: str) -> list[dict[str, Any]]:
    """The phases that ``text`` describes, step for step as the published code ran them. OptionError otherwise."""
    try:
        entries = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        why = str(error).partition(": <")[0]  # what follows is an address in memory
        raise OptionError(f"not a list of literals ({why})", where=KEY) from None
    if not isinstance(entries, list | tuple) or not entries:
        raise OptionError("not a list of phases", where=KEY)
    for entry in entries:
        _check(entry)
    ramps = _ramps([e for e in entries if "lr" in e])
    sized = [e for e in entries if e.keys() & {"sz", "bs", "trndir"}]
    if not (sized and ramps):
        raise OptionError("no entry with 'lr'" if sized else "no entry with 'sz' and 'bs'", where=KEY)
    found = _phases(sized, max(ramp["epochs"][1] for ramp in ramps))
    found[0]["lr"] = ramps  # ramps tile the training whatever phase they are written under
    return found


def _check(entry: object) -> None:
    if not isinstance(entry, Mapping):
        raise OptionError(f"{entry!r} is not a dict", where=KEY)
    for key in entry:
        if key not in _ENTRY_KEYS:
            raise OptionError(f"unknown key {key!r} in {entry!r}{nearest(key, _ENTRY_KEYS)}", where=KEY)
    ep = entry.get("ep")
    if not all(isinstance(epoch, int | float) for epoch in (ep if isinstance(ep, tuple | list) and ep else [ep])):
        raise OptionError(f"no 'ep' of one number or two in {entry!r}", where=KEY)


def _first_epoch(entry: Mapping[str, Any]) -> Any:
    ep = entry["ep"]
    return ep[0] if isinstance(ep, tuple | list) else ep


def _ramps(entries: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ramps = []
    for entry, following in zip_longest(entries, entries[1:]):
        ep, lr = entry["ep"], entry["lr"]
        if isinstance(ep, tuple | list):
            epochs = list(ep)
        elif following is not None:
            epochs = [ep, _first_epoch(following)]
        else:
            raise OptionError(f"{entry!r} has no end", where=KEY, remedy="give 'ep': (a, b)")
        rates = list(lr) if isinstance(lr, tuple | list) else [lr, lr]
        if len(rates) != 2 or len(epochs) != 2:
            raise OptionError(f"{entry!r} is not a ramp", where=KEY, remedy="give 'ep': (a, b), 'lr': (x, y)")
        ramps.append({"epochs": epochs, "from": rates[0], "to": rates[1]})
    return ramps


def _phases(entries: list[Mapping[str, Any]], epochs: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for entry, following in zip_longest(entries, entries[1:]):
        end = epochs if following is None else _first_epoch(following)
        if entry.get("keep_dl", False):
            if not found:
                raise OptionError(f"{entry!r} keeps the data of a phase before it, and there is none", where=KEY)
            # The data stay the same; only what the entry names changes.
            phase = {k: v for k, v in found[-1].items() if k != "val_batch"}
            phase |= {new: entry[old] for old, new in (("sz", "px"), ("bs", "batch_per_gpu")) if old in entry}
        else:
            phase = _new_phase(entry)
        found.append(phase | {"epochs": [_first_epoch(entry), end]})
    return found


def _new_phase(entry: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("sz", "bs"):
        if key not in entry:
            raise OptionError(f"no {key!r} in {entry!r}", where=KEY)
    data = _set_name(entry, "trndir", "")
    return {
        "px": entry["sz"],
        "batch_per_gpu": entry["bs"],
        "data": data,
        "val_data": _set_name(entry, "valdir", entry.get("trndir", "")),
        "min_scale": entry.get("min_scale", 0.08),
        "rectangular_val": entry.get("rect_val", False),
    }


def _set_name(entry: Mapping[str, Any], key: str, default: str) -> str:
    """``-sz/160`` names the set capped at 160 px; an empty name, the full-size images."""
    folder = entry.get(key, default)
    match = re.fullmatch(r"-sz/(\d+)", folder) if isinstance(folder, str) else None
    if match:
        return match[1]
    if folder == "":
        return FULL
    raise OptionError(f"{key} {folder!r} is neither '' nor '-sz/<px>'", where=KEY)
