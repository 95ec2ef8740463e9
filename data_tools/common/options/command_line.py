"""Options from the command line, over those of the YAML files that it names, as one typed dataclass."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from data_tools.common.errors import HelpRequested, UserError
from data_tools.common.options.declaration import CONFIG_FILE, Entry, OptionError, entries, refuse_unknown, sections
from data_tools.common.options.help import help_text, plain_text
from data_tools.common.options.values import FALSE, TRUE, convert
from data_tools.common.options.yaml_files import read_yaml

T = TypeVar("T")

_OWN = "options"  # what fastargs calls the section of options that have none


def parse(schema: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """The options in `argv`, over those of the YAML files that its `--config-file` names, as a `schema`.

    `schema.ELSEWHERE`, if any, has names of other programs' options, without dashes, and what to give here instead.
    OptionError names the option at fault; HelpRequested holds the text that `--help` asks for.
    """
    known, elsewhere = {entry.key: entry for entry in entries(schema)}, getattr(schema, "ELSEWHERE", {})
    given, files = _command_line(argv, known, lambda: help_text(schema, prog, description), elsewhere)
    store = _store(known)
    for file in files:
        store.collect(_placed(read_yaml(file, known, elsewhere), file))
    store.collect(_placed(given, ""))
    values: dict[str, dict[str, Any]] = {name: {} for name in sections(schema)}
    for entry in known.values():
        held = store.content.get((entry.section or _OWN, entry.field.name))
        if held is not None:
            values[entry.section][entry.field.name] = _typed(entry, held)
        elif entry.required:
            name = entry.argument or f"--{entry.key}"
            raise OptionError(f"{name} is required: {plain_text(entry.field.metadata['help'])}")
    own = values.pop("", {})
    return schema(**own, **{name: _build(name, sections(schema)[name], each) for name, each in values.items()})


@dataclass(frozen=True)
class _Given:
    """A value and its file; opaque, because fastargs takes bare mappings apart and ignores null."""

    value: Any
    file: str


def _placed(values: Mapping[str, Any], file: str) -> dict[str, _Given]:
    """As fastargs collects them: every key in a section."""
    return {key if "." in key else f"{_OWN}.{key}": _Given(value, file) for key, value in values.items()}


def _store(known: Mapping[str, Entry]) -> Any:
    from fastargs import Config, Param, Section
    from fastargs.validation import Anything

    store = Config()
    for section in dict.fromkeys(entry.section for entry in known.values()):
        mine = [entry.field for entry in known.values() if entry.section == section]
        params = {field.name: Param(Anything(), desc=field.metadata.get("help", "")) for field in mine}
        Section(section or _OWN, config_descriptor=store).params(**params)
    return store


def _command_line(
    argv: Sequence[str],
    known: Mapping[str, Entry],
    help_text: typing.Callable[[], str],
    elsewhere: Mapping[str, str],
) -> tuple[dict[str, Any], list[str]]:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise OptionError(message.removeprefix("argument "))

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{CONFIG_FILE}", "-C", action="append", default=[])
    parser.add_argument("--help", "-h", action="store_true")
    words = []
    for key, entry in known.items():
        if entry.argument:
            words.append(key)
            continue
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS)
    normalised = _normalised(argv, known)
    _check_given_once(normalised, known)
    given, rest = parser.parse_known_args(normalised)
    if given.help:
        raise HelpRequested(help_text())
    values = {key: value for key, value in vars(given).items() if key in known}
    plain = [word for word in rest if not word.startswith("-")]
    for word in rest:
        if word.startswith("-"):
            refuse_unknown(word.partition("=")[0].lstrip("-"), known, elsewhere)
    for key in words:  # the last takes all that are left
        many = typing.get_origin(known[key].kind) is tuple
        if plain:
            values[key] = tuple(plain) if many else plain[0]
        plain = [] if many else plain[1:]
    if plain:
        raise OptionError(f"unexpected argument {plain[0]!r}", remedy="options are --section.key=value")
    return values, given.config_file


def _normalised(argv: Sequence[str], known: Mapping[str, Entry]) -> list[str]:
    """The words as argparse takes them: names with underscores, and every switch with its value.

    An option's name may be written with dashes. A switch alone means true; argparse would take the next word for it.
    """
    words = []
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name not in (f"--{CONFIG_FILE}", "--"):
            name = f"--{name[2:].replace('-', '_')}"
        entry = known.get(name[2:])
        alone = entry is not None and entry.kind is bool and not equals and following.lower() not in TRUE | FALSE
        words.append(f"{name}=true" if alone else f"{name}{equals}{value}")
    return words


def _check_given_once(words: Sequence[str], known: Mapping[str, Entry]) -> None:
    """OptionError for a list given twice, of which the last would silently win."""
    names = [word.partition("=")[0] for word in words]
    for key, entry in known.items():
        kinds = (entry.kind, *typing.get_args(entry.kind))  # it may be optional
        if names.count(f"--{key}") > 1 and any(typing.get_origin(kind) is tuple for kind in kinds):
            raise OptionError("given twice", where=f"--{key}", remedy="give all values at once, comma-separated")


def _typed(entry: Entry, held: _Given) -> Any:
    try:
        return convert(held.value, entry.kind)
    except ValueError as error:
        where = f"{held.file}: {entry.key}" if held.file else entry.argument or f"--{entry.key}"
        raise OptionError(str(error), where=where, remedy=entry.field.metadata["hint"]) from None


def _build(name: str, kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except UserError as error:
        raise OptionError(error.what, where=f"{name}.{error.where}", remedy=error.remedy) from None
