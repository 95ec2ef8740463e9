"""The entries of `data.augment`: names from two packages, with plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_tools.common.options import OptionError

HOST, DEVICE = "ffcv.transforms", "torchvision.transforms.v2"
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A class of an allowed package, and what it is made with."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def on_host(self) -> bool:
        return self.name.startswith(HOST)


def read_augmentations(entries: Sequence[object]) -> tuple[Augmentation, ...]:
    """The augmentations of a list like ``[{ffcv.transforms.Cutout: {crop_size: 8}}, ...]``, in order.

    OptionError for a name of another package, for values that are not plain, and for one of FFCV's after one of
    torchvision's. Nothing is imported.
    """
    read = tuple(_entry(f"augment[{number}]", entry) for number, entry in enumerate(entries))
    places = [each.on_host for each in read]
    if places != sorted(places, reverse=True):
        raise OptionError(f"those of {HOST} work on the host and must come before those of {DEVICE}", where="augment")
    return read


def _entry(where: str, entry: object) -> Augmentation:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        remedy = "give ffcv.transforms.Cutout: {crop_size: 8}"
        raise OptionError(f"{entry!r} is not one name with its arguments", where=where, remedy=remedy)
    ((name, arguments),) = entry.items()
    package, _, kind = str(name).rpartition(".")
    if package not in (HOST, DEVICE) or not kind.isidentifier() or kind.startswith("_"):
        remedy = f"give a class of {HOST} or of {DEVICE}"
        raise OptionError(f"{name!r} is not allowed", where=where, remedy=remedy)
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise OptionError(f"{arguments!r} is not a mapping of arguments", where=where)
    for key, value in arguments.items():
        if not all(isinstance(each, PLAIN) for each in (value if isinstance(value, list) else [value])):
            raise OptionError(f"{value!r} is not a plain value or a list of them", where=f"{where}.{key}")
    return Augmentation(f"{package}.{kind}", dict(arguments))
