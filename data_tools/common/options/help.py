"""`--help` and the tables of docs/, made from the options' declarations."""

import re
import textwrap
import typing
from typing import Literal

from pydantic.fields import FieldInfo

from data_tools.common.options.mistakes import bounds_text, plain_text
from data_tools.common.options.section import Section, item_of, leaves, options_of, sections_of, shown

CONFIG_FILE = "config-file"
_COLUMNS = 100  # of --help
_SAID_DEFAULT = re.compile(r"; by default (.+?)(?=; |\. |$)")


def help_text(schema: type[Section], prog: str, description: str) -> str:
    """What `--help` prints: how the program is called, what it does, and every option."""
    known, sections = options_of(schema), sections_of(schema)
    usage = [f"[--{CONFIG_FILE} FILE.yaml] [--section.key=value ...]"] if sections else []
    usage += [_usage(key, field) for key, field in known.items() if "." not in key]
    module = "" if prog.endswith(".py") else "-m "
    lines = [f"usage: python {module}{prog} {' '.join(usage)}", "", plain_text(description.strip())]
    for section, kind in {"": schema, **sections}.items():
        mine = [item for item in known.items() if item[0].rpartition(".")[0] == section]
        lines += ["", *([f"{section}: {(kind.__doc__ or '').strip()}"] if section else [])] if mine else []
        lines += [line for key, field in mine for line in _help_lines(key, field)]
    return "\n".join(lines)


def _usage(key: str, field: FieldInfo) -> str:
    text = shown(key, field)
    if not text.startswith("--"):
        text += "..." if item_of(field.annotation) else ""
    elif field.annotation is not bool:
        text += f"={key.upper()}"
    return text if field.is_required() else f"[{text}]"


def _default(field: FieldInfo) -> str:
    """As the docs show it."""
    value = field.default
    if field.is_required():
        return "required"
    if field.default_factory or value in (None, "", ()):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(field: FieldInfo) -> str:
    """What it does, and what it may be."""
    text = field.description or ""
    kinds = [kind for kind in leaves(field.annotation) if typing.get_origin(kind) is Literal]
    unsaid = [f"`{word}`" for kind in kinds for word in typing.get_args(kind) if f"`{word}`" not in text]
    choices = f"{', '.join(unsaid[:-1])} or {unsaid[-1]}" if unsaid else ""
    bounds = bounds_text(field)
    return "; ".join(part for part in (text, choices, bounds if " to " in bounds else "") if part)


def _help_lines(key: str, field: FieldInfo) -> list[str]:
    default = _default(field)
    end = {"required": " (required)", "none": ""}.get(default, f" [{default}]")
    text = textwrap.wrap(plain_text(_meaning(field) + end), _COLUMNS - 30)
    left = f"  {shown(key, field)}"
    first = [f"{left:<29} {text[0]}"] if len(left) < 30 else [left, f"{'':<30}{text[0]}"]
    return [*first, *(f"{'':<30}{line}" for line in text[1:])]


def option_rows(schema: type[Section], section: str) -> list[list[str]]:
    """The cells (option, default, meaning) of each option of one section, for a table of a document."""
    mine = [item for item in options_of(schema).items() if item[0].rpartition(".")[0] == section]
    return [[f"`{shown(key, field)}`", *_default_and_meaning(field)] for key, field in mine]


def _default_and_meaning(field: FieldInfo) -> tuple[str, str]:
    """Two cells; if the default is none, what the meaning says about it is in the first."""
    default, meaning = _default(field), _meaning(field)
    if default == "none" and (said := _SAID_DEFAULT.search(meaning)):
        return said[1], meaning.replace(said[0], "")
    return default if default in ("none", "required") else f"`{default}`", meaning
