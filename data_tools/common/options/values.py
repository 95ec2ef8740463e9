"""The value of an option, checked against its type, choices and bounds, whether from text, YAML or code."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data_tools.common.options.declaration import OptionError, bounds_text, nearest

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}


def convert(value: Any, kind: Any) -> Any:
    """`value`, text from the command line or anything from YAML, as `kind`; ValueError says what is wrong."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if Path in (kind, *arguments) and _has_empty(value, origin):
        raise ValueError("empty, perhaps from an unset variable; give a path")
    if value is None and kind not in (object, Any) and type(None) not in arguments:
        raise ValueError("null, which is an empty value or `~` in YAML; give a value, or leave it out")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{value!r} holds a NUL character")
    if kind in (object, Any, list, dict) or origin in (list, dict):
        return _structure(value, origin or kind)
    if origin in (typing.Union, types.UnionType):
        is_none = value is None or (isinstance(value, str) and value.lower() in ("none", "null", ""))
        if is_none and type(None) in arguments:
            return None
        return _first_that_fits(value, [each for each in arguments if each is not type(None)])
    if origin is Literal:
        if isinstance(value, bool):  # a bare `off` in YAML 1.1
            words = TRUE if value else FALSE
            value = next((choice for choice in arguments if str(choice) in words), value)
        for choice in arguments:
            if choice == value or str(choice) == str(value):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}{nearest(value, arguments)}")
    if origin is tuple:
        items = _items(value, arguments[0]) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        items = [each.strip() if isinstance(each, str) else each for each in items]
        return tuple(convert(each, arguments[0]) for each in items if each != "")
    return _scalar(value, kind)


def _has_empty(value: Any, origin: Any) -> bool:
    """Whether a path is empty: the value, or one of several words, or all that is between commas."""
    if isinstance(value, str):
        return not value.strip(", " if origin is tuple else None)
    return origin is tuple and isinstance(value, (list, tuple)) and any(_has_empty(each, None) for each in value)


def _items(text: str, kind: Any) -> list[str]:
    """The parts between commas; a path that exists with a comma in its name is one."""
    items, rest = [], text.split(",")
    while rest:
        joined = (",".join(rest[:count]) for count in range(len(rest), 1, -1) if kind is Path)
        whole = next(filter(_is_path, joined), rest[0])
        items.append(whole)
        rest = rest[whole.count(",") + 1 :]
    return items


def _is_path(text: str) -> bool:
    try:
        return _as_path(text).exists()
    except OSError:  # a long list is not a file name
        return False


def _as_path(text: str) -> Path:
    """`~` expanded, which the shell does only at the start of a word and not in `--data.source=~/x`."""
    try:
        return Path(text.strip()).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


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
        if word not in TRUE | FALSE:
            raise ValueError(f"{value!r} is not a boolean (true or false)")
        return word in TRUE
    if kind in (str, Path):
        # YAML reads a bare 160 as a number; a bare `off` as a boolean, which no text option wants.
        if isinstance(value, bool) or not isinstance(value, (str, int, Path)):
            raise ValueError(f"{value!r} is not text")
        return _as_path(value) if kind is Path and isinstance(value, str) else kind(str(value))
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


def check(section: Any) -> None:
    """Check every field of a section against its type, choices and bounds.

    For `__post_init__`, so that a section made in code is as strict as one from the command line.
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        if not field.init or dataclasses.is_dataclass(hints[field.name]):
            continue
        value = getattr(section, field.name)
        try:
            if (converted := convert(value, hints[field.name])) != value:
                raise ValueError(f"{value!r} where {converted!r} was meant")
            _check_bounds(value, field.metadata.get("low"), field.metadata.get("high"))
        except ValueError as error:
            raise OptionError(str(error), where=field.name) from None


def _check_bounds(value: Any, low: float | None, high: float | None) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and (
            (low is not None and number < low) or (high is not None and number > high)
        ):
            raise ValueError(f"{number} is out of range ({bounds_text(low, high)})")
