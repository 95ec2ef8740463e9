"""Options from the command line, over those of the YAML files that it names, as one typed configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from data_tools.common.errors import HelpRequested
from data_tools.common.options.help import help_text
from data_tools.common.options.mistakes import OptionError, mistakes_in, unknown
from data_tools.common.options.section import CONFIG_FILE, Option, Section, options_of, sections_of
from data_tools.common.options.yaml_files import read_yaml

S = TypeVar("S", bound=Section)

_OWN = "options"  # what fastargs calls the section of options that have none
_SHORT = {"-C": CONFIG_FILE, "-h": "help"}
_TRUE_OR_FALSE = ("1", "true", "yes", "on", "0", "false", "no", "off")


def parse(schema: type[S], argv: Sequence[str], *, prog: str, description: str = "") -> S:
    """The options in `argv`, over those of the YAML files that its `--config-file` names, as a `schema`.

    OptionError names the option or key at fault, and has further mistakes as its `others`; HelpRequested holds the text
    that `--help` asks for.
    """
    known, sections = options_of(schema), sections_of(schema)
    given, files, words = _command_line(argv, known)
    if "help" in given:
        raise HelpRequested(help_text(schema, prog, description))
    given |= _placed(words, known)
    sources = [*((file, read_yaml(file, sections)) for file in files), ("", given)]
    mistakes = [unknown(key, known, file) for file, values in sources for key in values if key not in known]
    held = _collected(known, sources)
    values: dict[str, Any] = {name: {} for name in sections if name}
    for key, (value, _) in held.items():
        option = known[key]
        (values[option.section] if option.section else values)[option.name] = value
    try:
        options = schema(**values)
    except ValidationError as error:
        mistakes += mistakes_in(schema, error, known, {key: file for key, (_, file) in held.items()})
    if mistakes:
        mistakes[0].others = tuple(mistakes[1:])
        raise mistakes[0]
    return options


def _collected(
    known: Mapping[str, Option], sources: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, tuple[Any, str]]:
    """(value, file) of each option that a source gives; the last one wins."""
    from fastargs import Config, Param
    from fastargs import Section as Params
    from fastargs.validation import Anything

    store = Config()
    names = {key: f"{option.section or _OWN}.{option.name}" for key, option in known.items()}
    for section in dict.fromkeys(option.section for option in known.values()):
        params = {option.name: Param(Anything()) for option in known.values() if option.section == section}
        Params(section or _OWN, config_descriptor=store).params(**params)
    for file, values in sources:
        # In a tuple, because fastargs takes bare mappings apart and ignores null.
        store.collect({names[key]: (value, file) for key, value in values.items() if key in known})
    held = {key: store.content.get(tuple(name.split("."))) for key, name in names.items()}
    return {key: each for key, each in held.items() if each is not None}


def _command_line(argv: Sequence[str], known: Mapping[str, Option]) -> tuple[dict[str, str], list[str], list[str]]:
    """(value of each name, files of options, words without a name). A name may be written with dashes for underscores.
    A switch alone means true."""
    given: dict[str, str] = {}
    files, plain, words = [], [], list(argv)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("-"):
            plain.append(f"{name}{equals}{value}")
            continue
        key = _SHORT.get(name) or name.lstrip("-").replace("-", "_").replace("config_file", CONFIG_FILE)
        following = words[0] if words else "--"
        if not equals and (key == "help" or (key in known and known[key].field.annotation is bool)):
            value = words.pop(0) if key != "help" and following.lower() in _TRUE_OR_FALSE else "true"
        elif not equals and not following.startswith("--"):
            value = words.pop(0)
        elif not equals and (key in known or key == CONFIG_FILE):
            raise OptionError("needs a value", where=f"--{key}")
        if key == CONFIG_FILE:
            files.append(value)
        elif key in given and key in known and known[key].is_many:  # of which the last would silently win
            raise OptionError("given twice", where=f"--{key}", remedy="give all values at once, comma-separated")
        else:
            given[key] = value
    return given, files, plain


def _placed(words: Sequence[str], known: Mapping[str, Option]) -> dict[str, Any]:
    """The words without a name, by the options that take them; a list takes all that are left."""
    rest, values = list(words), dict[str, Any]()
    for key, option in known.items():
        if option.argument and rest:
            values[key], rest = (tuple(rest), []) if option.is_many else (rest[0], rest[1:])
    if rest:
        is_file = rest[0].endswith((".yaml", ".yml"))
        remedy = f"give --{CONFIG_FILE} {rest[0]}" if is_file else "options are --section.key=value"
        raise OptionError(f"unexpected argument {rest[0]!r}", remedy=remedy)
    return values
