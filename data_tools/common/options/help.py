"""`--help` and the tables of docs/, made from the options' declarations."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Literal

from data_tools.common.options.mistakes import bounds_of, bounds_text, plain_text
from data_tools.common.options.section import CONFIG_FILE, Option, Section, leaves, options_of, sections_of

_COLUMNS = 100  # of --help


def help_text(schema: type[Section], prog: str, description: str) -> str:
    """What `--help` prints: how the program is called, what it does, and every option."""
    known, kinds = options_of(schema).values(), sections_of(schema)
    usage = [
        *(_usage(option) for option in known if option.argument),
        *(f"[--{CONFIG_FILE} FILE.yaml] [--section.key=value ...]" for _ in [1] if set(kinds) - {""}),
        *(_usage(option) for option in known if not option.section and not option.argument),
    ]
    module = "" if prog.endswith(".py") else "-m "
    lines = [f"usage: python {module}{prog} {' '.join(usage)}", "", plain_text(description.strip())]
    for section, kind in kinds.items():
        lines += ["", f"{section}: {title(kind)}"] if section else [""]
        for option in known:
            if option.section == section:
                lines += _help_lines(option)
    return "\n".join(lines)


def title(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _usage(option: Option) -> str:
    text = option.shown
    if option.argument:
        text += "..." if option.is_many else ""
    elif option.field.annotation is not bool:
        text += f"={option.name.upper()}"
    return text if option.field.is_required() else f"[{text}]"


def _default(option: Option) -> str:
    """As the docs show it."""
    value = option.field.default
    if option.field.is_required():
        return "required"
    if option.field.default_factory or value in (None, "", ()):
        return "none"
    return (
        str(value).lower() if isinstance(value, bool) else ",".join(value) if isinstance(value, tuple) else str(value)
    )


def _meaning(option: Option) -> str:
    """What it does, and what it may be."""
    text, bounds = option.field.description or "", bounds_of(option.field)
    parts = [text]
    kinds = [kind for kind in leaves(option.field.annotation) if typing.get_origin(kind) is Literal]
    choices = [f"`{choice}`" for kind in kinds for choice in typing.get_args(kind)]
    if unsaid := [choice for choice in choices if choice not in text]:
        parts.append(f"{', '.join(unsaid[:-1])} or {unsaid[-1]}")
    if bounds.keys() & {"le", "lt"} or bounds.get("ge") not in (None, 0, 1):
        parts.append(bounds_text(option.field))
    return "; ".join(parts)


def _help_lines(option: Option) -> list[str]:
    default = _default(option)
    shown = {"required": " (required)", "none": ""}.get(default, f" [{default}]")
    left = f"  {option.shown}"
    text = textwrap.wrap(plain_text(_meaning(option) + shown), _COLUMNS - 30)
    first = [f"{left:<29} {text[0]}"] if len(left) < 30 else [left, f"{'':<30}{text[0]}"]
    return [*first, *(f"{'':<30}{line}" for line in text[1:])]


def option_rows(schema: type[Section], section: str) -> list[list[str]]:
    """The cells (option, default, meaning) of each option of one section, for a table of a document."""
    rows = []
    for option in options_of(schema).values():
        if option.section == section:
            default = _default(option)
            shown = default if default in ("none", "required") else f"`{default}`"
            rows.append([f"`{option.shown}`", shown, _meaning(option)])
    return rows


def option_table(rows: Sequence[Sequence[str]], first: str = "option") -> Iterator[str]:
    """Rows of `option_rows` as a Markdown table, line by line."""
    yield f"| {first} | default | meaning |"
    yield "|---" * (first.count("|") + 3) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
