"""Values of options: text of a command line, or anything out of YAML, to a Python type and within bounds."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

D = TypeVar("D")

REQUIRED: Any = dataclasses.MISSING
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class OptionError(ValueError):
    """A mistake in what the user gave; the message is one line that names the option.

    What was given may hold anything, as a key with a line end: all that does not print is shown as Python writes it.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def option(default: D, help: str, *, low: float | None = None, high: float | None = None) -> D:
    """A field with its help and, for numbers, inclusive bounds; `REQUIRED` as default means it has none."""
    metadata = {"help": help, "low": low, "high": high}
    if isinstance(default, (list, dict)):
        kept = default
        field = dataclasses.field(default_factory=lambda: type(kept)(kept), metadata=metadata)
        return typing.cast(D, field)
    return dataclasses.field(default=default, metadata=metadata)


def convert(value: Any, kind: Any) -> Any:
    """`value`, text of the command line or anything out of YAML, as `kind`; ValueError says what is wrong."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (object, Any, list, dict) or origin in (list, dict):
        return _structure(value, origin or kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        return _first_that_fits(value, [each for each in arguments if each is not type(None)])
    if origin is Literal:
        for choice in arguments:
            if choice == value or str(choice) == str(value):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}{nearest(value, arguments)}")
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        items = [each.strip() if isinstance(each, str) else each for each in items]
        return tuple(convert(each, arguments[0]) for each in items if each != "")
    return _scalar(value, kind)


def _structure(value: Any, kind: Any) -> Any:
    if kind in (list, dict) and not isinstance(value, kind):
        raise ValueError(f"{value!r} is not a {'list' if kind is list else 'mapping'}")
    return value


def _first_that_fits(value: Any, kinds: Sequence[Any]) -> Any:
    errors = []
    for kind in kinds:
        try:
            return convert(value, kind)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; ".join(errors))


def _scalar(value: Any, kind: Any) -> Any:
    if kind is bool:
        word = str(value).lower() if isinstance(value, (str, bool, int)) else ""
        if word not in _TRUE | _FALSE:
            raise ValueError(f"{value!r} is not a boolean (true or false)")
        return word in _TRUE
    if kind in (str, Path):
        # YAML reads a bare 160 as a number; a bare `off` as a boolean, which no text option wants.
        if isinstance(value, bool) or not isinstance(value, (str, int, Path)):
            raise ValueError(f"{value!r} is not text")
        return kind(str(value))
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
            return int(value)
        raise ValueError(f"{value!r} is not a whole number")
    if kind is float:
        try:
            # YAML 1.1 reads 1e-4 as text, so text is a number here too.
            number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{value!r} is not a finite number")
        return number
    raise TypeError(f"options cannot be of type {kind}")


def nearest(word: Any, valid: Iterable[Any]) -> str:
    """The end of an error line about an unknown `word`: ``; did you mean X?``, or nothing if none is near."""
    close = difflib.get_close_matches(str(word), [str(each) for each in valid], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def check(section: Any) -> None:
    """Hold every field of a section to its type, choices and bounds.

    For `__post_init__`, so that a section made in code is as strict as one from the command line.
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        try:
            if (converted := convert(value, hints[field.name])) != value:
                raise ValueError(f"{value!r} where {converted!r} was meant")
            _check_bounds(value, field.metadata.get("low"), field.metadata.get("high"))
        except ValueError as error:
            raise OptionError(f"{field.name}: {error}") from None


def _check_bounds(value: Any, low: float | None, high: float | None) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and (
            (low is not None and number < low) or (high is not None and number > high)
        ):
            wanted = (
                f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
            )
            raise ValueError(f"{number} is out of range ({wanted})")
