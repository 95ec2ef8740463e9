"""What is said about a mistake in an option: where it is, in plain words, and the nearest valid name."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from data_tools.common.errors import UserError
from data_tools.common.options.section import Section, leaves, options_of, section_in, shown

MOST_SHOWN = 80  # characters of a wrong value
NEAR = 0.6  # difflib's likeness of names that may be meant
NULL = "null, which is an empty value or `~` in YAML; give a value, or leave it out"
WORDS = {  # what pydantic's types of error begin with
    "int": "is not a whole number",
    "float": "is not a finite number",
    "finite": "is not a finite number",
    "bool": "is not a boolean (true or false)",
    "string": "is not text",
    "path": "is not text",
    "tuple": "is not a list",
    "dict": "is not a mapping of keys to values",
    "model": "is not a mapping of keys to values",
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class OptionError(UserError, ValueError):
    """A mistake in what the user gave; ``where`` is the option."""


def nearest(word: object, valid: Iterable[object]) -> str:
    """The end of an error line about an unknown ``word``: ``; did you mean X?``, or nothing if none is near."""
    names = {str(each).lower(): str(each) for each in valid}
    close = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=NEAR)
    return f"; did you mean {names[close[0]]}?" if close else ""


def unknown(key: str, known: Iterable[str], file: str = "") -> OptionError:
    """The error for a key of ``file``, or of the command line, that is not among the ``known``."""

    def likeness(each: str) -> list[float]:
        """Of the names without their sections, then of the whole: what is near only by its section is another."""
        pairs = (each.rpartition(".")[2], key.rpartition(".")[2]), (each, key)
        return [difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs]

    dashes, near = "" if file else "--", max(known, key=likeness)
    hint = f"; did you mean {dashes}{near}?" if likeness(near)[0] >= NEAR else ""
    return OptionError(f"unknown {'key' if file else 'option'} {dashes}{key}{hint}", where=file)


def mistakes_in(schema: type[Section], error: ValidationError, files: Mapping[str, str] = {}) -> list[OptionError]:
    """What is wrong, an error for each option or key in it. ``files`` has the file that each option was given in, or ""
    for the command line."""
    known, found = options_of(schema), dict[str, OptionError]()
    for each in error.errors(include_url=False):
        if each["type"] == "default_factory_not_called":  # follows from another
            continue
        place, field, section = _place(schema, each["loc"])
        fault = _fault(each, field, section)
        where = (f"{place}.{fault.where}".replace(".[", "[") if fault.where else place).removeprefix(".")
        what, key = fault.what, ".".join(re.findall(r"[^\W\d]\w*", where)[:2])
        if where in known and each["type"] == "missing":
            what = f"{shown(where, known[where])} is required: {plain_text(known[where].description or '')}"
            where = ""
        elif key in files:
            where = f"{files[key]}: {where}" if files[key] else f"{shown(key, known[key])}{where.removeprefix(key)}"
        if where in found:  # of another branch of a union
            what = f"{found[where].what}; {what}"
        found[where] = OptionError(what, where=where, remedy=fault.remedy)
    return list(found.values())


def _place(schema: type[Section], path: Iterable[int | str]) -> tuple[str, FieldInfo | None, type[Section]]:
    """Where ``path`` leads: as text (``.schedule.phases[2].lr[0].from``), the field, and the section that it is in."""
    text, field, section = "", None, schema
    inner: type[Section] | None = schema
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif inner:  # else it is a branch of a union
            text, section = f"{text}.{step}", inner
            field = {each.alias or name: each for name, each in section.model_fields.items()}.get(step)
            inner = section_in(field.annotation) if field else None
    return text, field, section


def _fault(each: Any, field: FieldInfo | None, section: type[Section]) -> OptionError:
    """An error of pydantic's in plain words, without its place."""
    kind, value, cause = each["type"], each["input"], each.get("ctx", {})
    text = repr(value) if len(repr(value)) <= MOST_SHOWN else f"{repr(value)[:MOST_SHOWN]}..."
    if kind == "missing":
        return OptionError("missing")
    if kind in ("extra_forbidden", "invalid_key"):
        valid = [each.alias or name for name, each in section.model_fields.items()]
        return OptionError(f"unknown key{nearest(each['loc'][-1], valid)}")
    if kind == "value_error":
        return cause["error"] if isinstance(cause["error"], OptionError) else OptionError(str(cause["error"]))
    if value is None:
        return OptionError(NULL)
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", cause["expected"])
        among = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        return OptionError(f"{text} is not {among}{nearest(value, choices)}")
    if field and kind.startswith(("greater_than", "less_than")):
        may_be_none = str(value) in ("0", "0.0") and type(None) in leaves(field.annotation)
        bounds = bounds_text(field) or " ".join(f"{BOUNDS[name]} {bound:g}" for name, bound in cause.items())
        remedy = "give none, or leave it out" if may_be_none else ""
        return OptionError(f"{value} is out of range ({bounds})", remedy=remedy)
    words = next((said for start, said in WORDS.items() if kind.startswith(start)), "")
    return OptionError(f"{text} {words}" if words else each["msg"])


def bounds_text(field: FieldInfo) -> str:
    """The bounds of a number in words; empty without."""
    found = {name: getattr(each, name) for each in field.metadata for name in BOUNDS if hasattr(each, name)}
    if found.keys() == {"ge", "le"}:
        return f"{found['ge']} to {found['le']}"
    return ", ".join(f"{BOUNDS[name]} {bound}" for name, bound in found.items())


def plain_text(text: str) -> str:
    return text.replace("`", "")
