"""`--help` and the tables of docs/, made from the options' declarations."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator, Sequence

from data_tools.common.options.declaration import CONFIG_FILE, Entry, entries, sections

_COLUMNS = 100  # of --help


def plain_text(text: str) -> str:
    return text.replace("`", "")


def help_text(schema: type, prog: str, description: str) -> str:
    """What `--help` prints: how the program is called, what it does, and every option."""
    known, kinds = entries(schema), sections(schema)
    words = [entry for entry in known if entry.argument]
    named = ["--section.key=value"] if set(kinds) - {""} else []
    usage = [
        *(_usage_of_word(entry) for entry in words),
        *(f"[--{CONFIG_FILE} FILE.yaml] [{each} ...]" for each in named),
        *(_usage(entry) for entry in known if not entry.section and not entry.argument),
    ]
    module = "" if prog.endswith(".py") else "-m "
    lines = [f"usage: python {module}{prog} {' '.join(usage)}", "", plain_text(description.strip())]
    for section, kind in kinds.items():
        lines += ["", f"{section}: {_title(kind)}"] if section else [""]
        for entry in known:
            if entry.section == section:
                lines += _help_lines(entry)
    return "\n".join(lines)


def _title(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _usage(entry: Entry) -> str:
    text = f"--{entry.key}" if entry.kind is bool else f"--{entry.key}={entry.field.name.upper()}"
    return text if entry.required else f"[{text}]"


def _usage_of_word(entry: Entry) -> str:
    text = f"{entry.argument}{'...' if typing.get_origin(entry.kind) is tuple else ''}"
    return text if entry.required else f"[{text}]"


def _help_lines(entry: Entry) -> list[str]:
    shown = " (required)" if entry.required else f" [{entry.without()}]" if entry.without() else ""
    left = f"  {entry.argument or f'--{entry.key}'}"
    text = textwrap.wrap(plain_text(entry.meaning() + shown), _COLUMNS - 30)
    first = [f"{left:<29} {text[0]}"] if len(left) < 30 else [left, f"{'':<30}{text[0]}"]
    return [*first, *(f"{'':<30}{line}" for line in text[1:])]


def option_rows(schema: type, section: str) -> list[list[str]]:
    """The cells (option, default, meaning) of each option of one section, for a table of a document."""
    rows = []
    for entry in entries(schema):
        if entry.section != section or "help" not in entry.field.metadata:
            continue
        default, none = entry.default(), entry.field.metadata["none"]
        shown = default if default in ("none", "required") else f"`{default}`"
        meaning = f"{entry.meaning()}; none: {none}" if none else entry.meaning()
        rows.append([f"`{entry.argument or f'--{entry.key}'}`", shown, meaning])
    return rows


def option_table(rows: Sequence[Sequence[str]], first: str = "option") -> Iterator[str]:
    """Rows of `option_rows` as a Markdown table, line by line."""
    yield f"| {first} | default | meaning |"
    yield "|---" * (first.count("|") + 3) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
