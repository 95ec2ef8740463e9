"""Options from the command line, over those of the YAML files that it names, as one typed configuration.

YAML 1.2: `off` is text, `1e-4` is a number, and `010` is ten.
"""

import shlex
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from data_tools.common.options.help import CONFIG_FILE, help_text
from data_tools.common.options.mistakes import OptionError, mistakes_in, unknown
from data_tools.common.options.section import Section, as_meant, item_of, options_of, sections_of, shown

S = TypeVar("S", bound=Section)

_OWN = "options"  # what fastargs calls the section of options that have none
_SHORT = {"C": CONFIG_FILE, "h": "help", "config_file": CONFIG_FILE}
_TRUE_OR_FALSE = ("1", "true", "yes", "on", "0", "false", "no", "off")


def parse(schema: type[S], argv: Sequence[str], *, prog: str, description: str = "") -> S:
    """The options in `argv`, over those of the YAML files that its `--config-file` names, as a `schema`.

    OptionError names the option or key at fault, and has further mistakes as its `others`; `--help` is printed, and
    ends with SystemExit, as argparse's does.
    """
    known, sections = options_of(schema), sections_of(schema)
    given, files, words = _command_line(argv, known)
    if "help" in given:
        print(help_text(schema, prog, description), flush=True)
        sys.exit(0)
    sources = [*((file, _read_yaml(file, sections)) for file in files), ("", given | _placed(words, known))]
    mistakes = [
        unknown(key, [*known, CONFIG_FILE], file) for file, values in sources for key in values if key not in known
    ]
    held = _collected(known, sources)
    values: dict[str, Any] = {section: {} for section in sections}
    for key, (value, _) in held.items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    try:
        options = schema(**values)
    except ValidationError as error:
        mistakes += mistakes_in(schema, error, {key: file for key, (_, file) in held.items()})
    if mistakes:
        mistakes[0].others = tuple(mistakes[1:])
        raise mistakes[0]
    return options


def _collected(
    known: Mapping[str, FieldInfo], sources: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, tuple[Any, str]]:
    """(value, file) of each option that a source gives; the last one wins."""
    from fastargs import Config, Param
    from fastargs import Section as Params
    from fastargs.validation import Anything

    store = Config()
    paths = {key: (key.rpartition(".")[0] or _OWN, key.rpartition(".")[2]) for key in known}
    for section in dict(paths.values()):
        names = [name for path, name in paths.values() if path == section]
        Params(section, config_descriptor=store).params(**{name: Param(Anything()) for name in names})
    for file, values in sources:
        # In a tuple, because fastargs takes bare mappings apart and ignores null.
        store.collect({".".join(paths[key]): (value, file) for key, value in values.items() if key in known})
    return {key: store.content[path] for key, path in paths.items() if path in store.content}


def _command_line(argv: Sequence[str], known: Mapping[str, FieldInfo]) -> tuple[dict[str, Any], list[str], list[str]]:
    """(value of each option, YAML files, words without a name). A name may have dashes for underscores; a switch alone
    means true."""
    given, files, plain, words = dict[str, Any](), list[str](), list[str](), list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            plain.append(word)
            continue
        name, equals, value = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        key = _SHORT.get(key, key)
        kind, following = known[key].annotation if key in known else None, words[0] if words else "--"
        if not equals:
            if key == "help" or (kind is bool and following.lower() not in _TRUE_OR_FALSE):
                value = "true"
            elif not following.startswith("--"):
                value = words.pop(0)
            elif key in (*known, CONFIG_FILE):
                raise OptionError("needs a value", where=f"--{key}")
        if key in given and item_of(kind):  # the last would silently win
            raise OptionError("given twice", where=f"--{key}", remedy="give all values at once, comma-separated")
        if key == CONFIG_FILE:
            files.append(value)
        else:
            given[key] = value
    return given, files, plain


def _placed(words: Sequence[str], known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The words without a name, by the options that take them; a list takes all that are left."""
    rest, values = list(words), dict[str, Any]()
    for key, field in known.items():
        if rest and not shown(key, field).startswith("--"):
            values[key], rest = (rest, []) if item_of(field.annotation) else (rest[0], rest[1:])
    if rest:
        is_file = rest[0].endswith((".yaml", ".yml"))
        remedy = f"give --{CONFIG_FILE} {shlex.quote(rest[0])}" if is_file else "options are --section.key=value"
        raise OptionError(f"unexpected argument {rest[0]!r}", remedy=remedy)
    return values


def _read_yaml(file: str, sections: Container[str]) -> dict[str, Any]:
    """What a file gives, by the keys of the command line. OptionError if it is not a mapping of keys to values."""

    def mapping(value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            raise OptionError(f"{what} is not a mapping of keys to values", where=file)
        return {str(key): each for key, each in (value or {}).items()}

    flat: dict[str, Any] = {}
    for key, value in mapping(_load(file), "the file").items():
        is_section = key in sections or (value and isinstance(value, dict) and "." not in key)
        pairs = {f"{key}.{name}": each for name, each in mapping(value, key).items()} if is_section else {key: value}
        if twice := flat.keys() & pairs:
            raise OptionError(f"{min(twice)} is given twice, once as a key of its section", where=file)
        flat |= pairs
    return flat


def _load(file: str) -> Any:
    """The content of ``file`` in plain values; dates are text, since folders are named by dates."""
    from ruamel.yaml import YAML  # takes 0.07 s
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        """A table of types of its own."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        path: Path = as_meant(file, Path)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        what = f"{file}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise OptionError(what, where=f"--{CONFIG_FILE}") from None
    try:
        return yaml.load(content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8"))
    except (YAMLError, ValueError, RecursionError) as error:
        problem, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        what = problem.partition(" with value")[0]  # of a duplicate key, which can be long
        raise OptionError(f"not YAML: {' '.join(what.split())}{line}", where=file) from None
