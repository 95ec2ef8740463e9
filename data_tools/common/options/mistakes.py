"""What is said about a mistake in an option: where it is, in plain words, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from data_tools.common.errors import UserError
from data_tools.common.options.section import CONFIG_FILE, Option, Section, leaves, section_in

MOST_SHOWN = 80  # characters of a wrong value
NULL = "null, which is an empty value or `~` in YAML; give a value, or leave it out"
WORDS = {  # pydantic's types of error begin with these
    "int": "is not a whole number",
    "float": "is not a finite number",
    "finite_number": "is not a finite number",
    "bool": "is not a boolean (true or false)",
    "string": "is not text",
    "path": "is not text",
    "tuple": "is not a list",
    "dict": "is not a mapping of keys to values",
    "model": "is not a mapping of keys to values",
}
UNKNOWN = ("extra_forbidden", "invalid_key")


class OptionError(UserError, ValueError):
    """A mistake in what the user gave; ``where`` is the option."""


def nearest(word: object, valid: Iterable[object]) -> str:
    """The end of an error line about an unknown ``word``: ``; did you mean X?``, or nothing if none is near."""
    names = {str(each).lower(): str(each) for each in valid}
    close = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]}?" if close else ""


def unknown(key: str, known: Iterable[str], file: str = "") -> OptionError:
    """The error for a key of ``file``, or of the command line, that is not among the ``known``."""
    valid, name = [*known, CONFIG_FILE], _own_name(key)
    named_so = [each for each in valid if _own_name(each) == name]
    if "." in key:  # what is near only by its section is another option
        valid = [each for each in valid if nearest(name, [_own_name(each)])]
    near, dashes = nearest(named_so[0] if len(named_so) == 1 else key, valid), "" if file else "--"
    shown = f"unknown {'key' if file else 'option'} {dashes}{key}"
    return OptionError(f"{shown}{near.replace('mean ', f'mean {dashes}')}", where=file)


def _own_name(key: str) -> str:
    """The key without its section."""
    return key.rpartition(".")[2]


def mistakes_in(
    schema: type[Section], error: ValidationError, known: Mapping[str, Option], files: Mapping[str, str]
) -> list[OptionError]:
    """What is wrong, one error for each option or key in it. ``files`` has the options that were given: the file that
    each is from, or "" for the command line."""
    found: dict[str, OptionError] = {}
    for each in error.errors(include_url=False):
        if each["type"] == "default_factory_not_called":  # follows from another
            continue
        where, field, section = _place(schema, each["loc"])
        what, remedy = _fault(each, field, section)
        cause = each.get("ctx", {}).get("error")
        if isinstance(cause, OptionError) and cause.where:
            where = f"{where}.{cause.where}".removeprefix(".").replace(".[", "[")
        option = known.get(re.match(r"\w*\.?\w*", where)[0])
        if option is not None and each["type"] == "missing" and where == option.key:
            what, where = f"{option.shown} is required: {plain_text(option.field.description or '')}", ""
        elif option is not None and option.key in files:
            file = files[option.key]
            where = f"{file}: {where}" if file else f"{option.shown}{where.removeprefix(option.key)}"
        if where in found:  # of the other branch of a union
            what = f"{found[where].what}; {what}"
        found[where] = OptionError(what, where=where, remedy=remedy)
    return list(found.values())


def _place(schema: type[Section], path: Iterable[int | str]) -> tuple[str, FieldInfo | None, type[Section] | None]:
    """Where ``path`` leads, as text (``phases[2].lr[0].from``): the field there, and the section that has it."""
    shown, field, section, inner = "", None, None, schema
    for step in path:
        if isinstance(step, int) and inner is not schema:
            shown += f"[{step}]"
        elif inner is not None:  # else it is the branch of a union
            shown += f".{step}"
            section = inner
            field = {each.alias or name: each for name, each in inner.model_fields.items()}.get(str(step))
            inner = section_in(field.annotation) if field else None
    return shown.removeprefix("."), field, section


def _fault(each: Any, field: FieldInfo | None, section: type[Section] | None) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    kind, value, about = each["type"], each["input"], each.get("ctx", {})
    text = repr(value) if len(repr(value)) <= MOST_SHOWN else f"{repr(value)[:MOST_SHOWN]}..."
    if kind == "missing":
        return "missing", ""
    if kind in UNKNOWN and section is not None:
        return f"unknown key{nearest(each['loc'][-1], names_of(section))}", ""
    if kind == "value_error":
        cause = about["error"]
        return (cause.what, cause.remedy) if isinstance(cause, OptionError) else (str(cause), "")
    if value is None:
        return NULL, ""
    if kind == "literal_error":
        choices = re.findall(r"'(\w[^']*)'", about["expected"])
        return f"{text} is not one of {', '.join(choices)}{nearest(value, choices)}", ""
    if kind.startswith(("greater_than", "less_than")) and field is not None:
        optional = value == 0 and type(None) in leaves(field.annotation)
        return f"{value} is out of range ({bounds_text(field)})", "leave it out, or give none" if optional else ""
    words = next((said for start, said in WORDS.items() if kind.startswith(start)), "")
    return (f"{text} {words}" if words else str(each["msg"])), ""


def names_of(section: type[Section]) -> Iterator[str]:
    """The keys of a section as they are in YAML."""
    yield from (field.alias or name for name, field in section.model_fields.items())


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """The bounds of a number by pydantic's names."""
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(each, name) for each in field.metadata for name in names if hasattr(each, name)}


def bounds_text(field: FieldInfo) -> str:
    """The bounds of a number in words."""
    bounds = bounds_of(field)
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']} to {bounds['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[name]} {bound}" for name, bound in bounds.items())


def plain_text(text: str) -> str:
    return text.replace("`", "")
