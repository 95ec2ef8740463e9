"""Strict options: dataclasses in, one command line and YAML file, a typed frozen dataclass out.

fastargs holds the sections and merges what was given; everything it is lax about is done here. It drops
unknown keys in silence, lets environment variables override the command line, calls every non-empty string a
true boolean and exits 0 on a validation error. Here an unknown key is answered with the nearest valid one,
the environment takes no part, prefixes of options are not options, and every mistake is an `OptionError`
whose text is one line naming the key.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Write:
        quality: int = option(90, "JPEG quality", low=1, high=100)
        def __post_init__(self) -> None:
            check(self)

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Spec:                      # every field is a section
        write: Write

    spec = parse_or_exit(Spec, sys.argv[1:], prog="write_datasets.py", description="...")

Field types: bool, int, float, str, Path, Literal[...], X | None, tuple[X, ...] (comma-separated), and list,
dict or object for YAML structures, which are passed through untouched.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

__all__ = ["REQUIRED", "OptionError", "check", "flatten", "option", "parse", "parse_or_exit"]

T = TypeVar("T")

D = TypeVar("D")

REQUIRED: Any = dataclasses.MISSING
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class OptionError(ValueError):
    """A mistake in what the user gave; the message is one line that names the option.

    What was given may hold anything, as a key with a line end: all that does not print is shown as Python writes it.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def option(default: D, help: str, *, low: float | None = None, high: float | None = None) -> D:
    """A field with its help and, for numbers, inclusive bounds; `REQUIRED` as default means it has none."""
    metadata = {"help": help, "low": low, "high": high}
    if isinstance(default, (list, dict)):
        kept = default
        field = dataclasses.field(default_factory=lambda: type(kept)(kept), metadata=metadata)
        return typing.cast(D, field)
    return dataclasses.field(default=default, metadata=metadata)


def convert(value: Any, kind: Any) -> Any:
    """`value`, text of the command line or anything out of YAML, as `kind`; ValueError says what is wrong."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (object, Any, list, dict) or origin in (list, dict):
        return _structure(value, origin or kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        return _first_that_fits(value, [each for each in arguments if each is not type(None)])
    if origin is Literal:
        for choice in arguments:
            if choice == value or str(choice) == str(value):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}{nearest(value, arguments)}")
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        items = [each.strip() if isinstance(each, str) else each for each in items]
        return tuple(convert(each, arguments[0]) for each in items if each != "")
    return _scalar(value, kind)


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
        if word not in _TRUE | _FALSE:
            raise ValueError(f"{value!r} is not a boolean (true or false)")
        return word in _TRUE
    if kind in (str, Path):
        # YAML reads a bare 160 as a number; a bare `off` as a boolean, which no text option wants.
        if isinstance(value, bool) or not isinstance(value, (str, int, Path)):
            raise ValueError(f"{value!r} is not text")
        return kind(str(value))
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


def nearest(word: Any, valid: Iterable[Any]) -> str:
    """The end of an error line about an unknown `word`: ``; did you mean X?``, or nothing if none is near."""
    close = difflib.get_close_matches(str(word), [str(each) for each in valid], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def check(section: Any) -> None:
    """Hold every field of a section to its type, choices and bounds.

    For `__post_init__`, so that a section made in code is as strict as one from the command line.
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        try:
            if (converted := convert(value, hints[field.name])) != value:
                raise ValueError(f"{value!r} where {converted!r} was meant")
            _check_bounds(value, field.metadata.get("low"), field.metadata.get("high"))
        except ValueError as error:
            raise OptionError(f"{field.name}: {error}") from None


def _check_bounds(value: Any, low: float | None, high: float | None) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and (
            (low is not None and number < low) or (high is not None and number > high)
        ):
            wanted = (
                f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
            )
            raise ValueError(f"{number} is out of range ({wanted})")


class HelpRequested(Exception):
    """`--help` was given; the text is the argument."""


def parse(schema: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """The options in `argv`, over those of the YAML files its `--config-file` names, as a `schema`."""
    sections = typing.get_type_hints(schema)
    fields = {f"{name}.{field.name}": field for name, kind in sections.items() for field in dataclasses.fields(kind)}
    kinds = {f"{name}.{key}": hint for name, kind in sections.items() for key, hint in _hints(kind).items()}
    given, files = _command_line(argv, fields, kinds, prog, lambda: _help(schema, prog, description))
    store = _store(schema, fields)
    for file in files:
        store.collect({key: _Given(value, file) for key, value in _yaml(file, fields).items()})
    store.collect({key: _Given(value, "") for key, value in given.items()})
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for key, field in fields.items():
        section, _, name = key.partition(".")
        held = store.content.get((section, name))
        if held is not None:
            values[section][name] = _typed(key, held, kinds[key])
        elif field.default is REQUIRED and field.default_factory is REQUIRED:
            raise OptionError(f"--{key} is required ({field.metadata.get('help', '')})")
    return schema(**{name: _build(name, kind, values[name]) for name, kind in sections.items()})


def parse_or_exit(schema: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """`parse` for a program: help goes to stdout with exit 0, a mistake to stderr on one line with exit 2."""
    try:
        return parse(schema, argv, prog=prog, description=description)
    except HelpRequested as text:
        print(text)
        sys.exit(0)
    except OptionError as error:
        print(f"{prog.removeprefix('-m ')}: error: {error}", file=sys.stderr)
        sys.exit(2)


def flatten(spec: Any) -> dict[str, Any]:
    """A parsed schema as {"section.key": value}, for printing it or writing it down."""
    return {
        f"{section.name}.{field.name}": getattr(getattr(spec, section.name), field.name)
        for section in dataclasses.fields(spec)
        for field in dataclasses.fields(getattr(spec, section.name))
    }


@dataclasses.dataclass(frozen=True)
class _Given:
    """A value and its file; opaque, because fastargs takes bare mappings apart and ignores null."""

    value: Any
    file: str


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _store(schema: type, fields: dict[str, dataclasses.Field[Any]]) -> Any:
    from fastargs import Config, Param, Section
    from fastargs.validation import Anything

    store = Config()
    for section in dataclasses.fields(schema):
        mine = {key.partition(".")[2]: f for key, f in fields.items() if key.startswith(section.name + ".")}
        params = {name: Param(Anything(), desc=field.metadata.get("help", "")) for name, field in mine.items()}
        Section(section.name, config_descriptor=store).params(**params)
    return store


def _command_line(
    argv: Sequence[str],
    fields: dict[str, Any],
    kinds: dict[str, Any],
    prog: str,
    help_text: typing.Callable[[], str],
) -> tuple[dict[str, str], list[str]]:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise OptionError(message.removeprefix("argument "))

    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--config-file", "-C", action="append", default=[])
    parser.add_argument("--help", "-h", action="store_true")
    for key in fields:
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if kinds[key] is bool else {}
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS, **flag)
    given, unknown = parser.parse_known_args(list(argv))
    if given.help:
        raise HelpRequested(help_text())
    for word in unknown:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            raise OptionError(f"unexpected argument {word!r}; options are --section.key=value")
        raise OptionError(f"unknown option {name}{nearest(name, [f'--{key}' for key in [*fields, 'config-file']])}")
    return {key: value for key, value in vars(given).items() if key in fields}, given.config_file


def _yaml(file: str, fields: dict[str, Any]) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise OptionError(f"{file}: key {key!r} is given twice (line {node.start_mark.line + 1})")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=Loader)
    except OSError as error:
        raise OptionError(f"--config-file: {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    flat: dict[str, Any] = {}
    for section, body in _mapping(file, content or {}, "the file").items():
        pairs = {section: body} if section in fields else _mapping(file, body or {}, section)
        for key, value in pairs.items():
            name = key if section in fields else f"{section}.{key}"
            if name not in fields:
                raise OptionError(f"{file}: unknown key {name}{nearest(name, fields)}")
            flat[name] = value
    return flat


def _mapping(file: str, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{file}: {what} is not a mapping of keys to values")
    return {str(key): each for key, each in value.items()}


def _typed(key: str, held: _Given, kind: Any) -> Any:
    try:
        return convert(held.value, kind)
    except ValueError as error:
        raise OptionError(f"{held.file + ': ' if held.file else '--'}{key}: {error}") from None


def _build(name: str, kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        raise OptionError(f"{name}.{error}") from None


def _help(schema: type, prog: str, description: str) -> str:
    lines = [f"usage: python {prog} [--config-file FILE.yaml] [--section.key=value ...]", "", description]
    for name, kind in typing.get_type_hints(schema).items():
        lines += ["", f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}"]
        hints = _hints(kind)
        for field in dataclasses.fields(kind):
            left = f"  --{name}.{field.name}"
            lines.append(f"{left:<26} {field.metadata.get('help', '')}{_help_tail(field, hints[field.name])}")
    return "\n".join(lines)


def _help_tail(field: dataclasses.Field[Any], kind: Any) -> str:
    choices = f" ({'|'.join(map(str, typing.get_args(kind)))})" if typing.get_origin(kind) is typing.Literal else ""
    if field.default is REQUIRED:
        return choices + (" [required]" if field.default_factory is REQUIRED else "")
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return choices + (f" [{default}]" if default not in (None, "") else "")
