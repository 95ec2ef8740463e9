"""How an option is declared, how a schema's options are listed, and the error for an unknown name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

from data_tools.common.errors import UserError

D = TypeVar("D")

REQUIRED: Any = dataclasses.MISSING
CONFIG_FILE = "config-file"


class OptionError(UserError, ValueError):
    """A mistake in what the user gave; `where` is the option."""


def option(
    default: D,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    none: str = "",
    argument: str = "",
    was: Sequence[str] = (),
    hint: str = "",
) -> D:
    """A field with everything there is to know about it; `REQUIRED` as default means that it has none.

    help: a sentence or two, values in backticks. low, high: inclusive bounds of numbers. none: what happens if no
    value is given. argument: its placeholder in the usage, if it is positional. was: former names; the error for them
    gives the new one. hint: the remedy for a value of the wrong type.
    """
    metadata: dict[str, Any] = {"help": help, "low": low, "high": high, "none": none, "argument": argument}
    metadata |= {"was": tuple(was), "hint": hint}
    if isinstance(default, (list, dict)):
        kept = default
        field = dataclasses.field(default_factory=lambda: type(kept)(kept), metadata=metadata)
        return typing.cast(D, field)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Entry:
    """One option: `key` as on the command line, in a section ("" for one of its own)."""

    section: str
    field: dataclasses.Field[Any]
    kind: Any

    @property
    def key(self) -> str:
        return f"{self.section}.{self.field.name}" if self.section else self.field.name

    @property
    def required(self) -> bool:
        return self.field.default is REQUIRED and self.field.default_factory is REQUIRED

    @property
    def argument(self) -> str:
        return str(self.field.metadata.get("argument", ""))

    def default(self) -> str:
        """As the docs show it."""
        default = self.field.default
        if default is REQUIRED:
            return "required" if self.required else "none"
        if default is None or default == "":
            return "none"
        return str(default).lower() if isinstance(default, bool) else str(default)

    def meaning(self) -> str:
        """What it does, and what it may be."""
        about = self.field.metadata
        parts = [about["help"]]
        if unsaid := [f"`{choice}`" for choice in _choices(self.kind) if f"`{choice}`" not in about["help"]]:
            parts.append(f"{', '.join(unsaid[:-1])} or {unsaid[-1]}")
        if about["high"] is not None or about["low"] not in (None, 0, 1):
            parts.append(bounds_text(about["low"], about["high"]))
        return "; ".join(parts)

    def without(self) -> str:
        """What happens if it is not given: its default, or a description."""
        default = self.default()
        return self.field.metadata["none"] or (default if default not in ("none", "required") else "")


def _choices(kind: Any) -> Iterator[str]:
    if typing.get_origin(kind) is Literal:
        yield from map(str, typing.get_args(kind))
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        for each in typing.get_args(kind):
            yield from _choices(each)


def sections(schema: type) -> dict[str, Any]:
    """The sections of a schema by name; "" holds the options of its own, if it has any."""
    hints = typing.get_type_hints(schema)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(schema)}
    own = {"": schema} if any(not dataclasses.is_dataclass(kind) for kind in kinds.values()) else {}
    return own | {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}


def entries(schema: type) -> list[Entry]:
    """Every option of a schema, in order."""
    found = []
    for section, kind in sections(schema).items():
        hints = typing.get_type_hints(kind)
        own = [
            each for each in dataclasses.fields(kind) if each.init and not dataclasses.is_dataclass(hints[each.name])
        ]
        found += [Entry(section, field, hints[field.name]) for field in own]
    return found


def bounds_text(low: float | None, high: float | None) -> str:
    """Bounds, of which one may be missing, in words."""
    return f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"


def nearest(word: Any, valid: Iterable[Any]) -> str:
    """The end of an error line about an unknown `word`: ``; did you mean X?``, or nothing if none is near."""
    names = {str(each).lower(): str(each) for each in valid}
    close = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]}?" if close else ""


def _own_name(key: str) -> str:
    """The key without its section."""
    return key.rpartition(".")[2]


def refuse_unknown(key: str, known: Mapping[str, Entry], elsewhere: Mapping[str, str], where: str = "") -> NoReturn:
    """OptionError for an unknown key: gives its new name, its name here, or the nearest."""
    kind = "key" if where else "option"
    shown = key if where else f"--{key}"
    if key in elsewhere:
        raise OptionError(f"unknown {kind} {shown}; here, {elsewhere[key]}", where=where)
    for entry in known.values():
        if key in entry.field.metadata["was"]:
            values = " (true or false)" if entry.kind is bool else ""
            now = entry.argument or f"{'' if where else '--'}{entry.key}{values}"
            raise OptionError(f"{kind} {shown} is now {now}{', without a name' if entry.argument else ''}", where=where)
    valid, name = [*known, CONFIG_FILE], _own_name(key)
    named_so = [each for each in valid if _own_name(each) == name]
    if not named_so and name in elsewhere:  # with a section before it
        raise OptionError(f"unknown {kind} {shown}; here, {elsewhere[name]}", where=where)
    if "." in key:  # what is near only by its section is another option
        valid = [each for each in valid if nearest(name, [_own_name(each)])]
    near = nearest(named_so[0] if len(named_so) == 1 else key, valid)
    raise OptionError(f"unknown {kind} {shown}{near if where else near.replace('mean ', 'mean --')}", where=where)
