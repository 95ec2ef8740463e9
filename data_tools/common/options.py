"""Options of every program: frozen dataclasses in; a command line and YAML files in, one typed dataclass out.

fastargs holds the sections and merges what files and the command line gave; everything it is lax about is done here. It
drops unknown keys in silence, lets environment variables override the command line, calls every non-empty string a true
boolean and exits 0 on a validation error. Here an unknown key is answered with the nearest valid one, the environment
takes no part, prefixes of options are not options, and every mistake is an `OptionError` that names the key.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Write:
        quality: int = option(90, "JPEG quality", low=1, high=100)

        def __post_init__(self) -> None:
            check(self)

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Convert:
        write: Write = Write()                                    # a section: --write.quality=80
        dry_run: bool = option(False, "write nothing")            # an option of its own: --dry_run
        sources: tuple[Path, ...] = option(REQUIRED, "what to read", argument="SOURCE")  # a word without a name

    options = parse(Convert, sys.argv[1:], prog="convert.py", description="...")

Field types: bool, int, float, str, Path, Literal[...], X | None, tuple[X, ...] (comma-separated), and list, dict or
object for YAML structures, which are passed through untouched. What is said of an option stands in its `option(...)`
and nowhere else: `--help` (`help_text`) and the tables of docs/ (`option_rows`) are made of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from data_tools.common.errors import HelpRequested, UserError

T = TypeVar("T")
D = TypeVar("D")

REQUIRED: Any = dataclasses.MISSING
CONFIG_FILE = "config-file"
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_COLUMNS = 100  # of --help


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
    """A field with all that is to be known of it; `REQUIRED` as default means that it has none.

    help: a sentence or two, values in backticks. low, high: inclusive bounds of numbers. none: what follows where no
    value is given. argument: what stands for it on the command line where it is a word without a name. was: names
    that it had before, which are refused with the new one. hint: the remedy where a value is not of its type.
    """
    metadata: dict[str, Any] = {"help": help, "low": low, "high": high, "none": none, "argument": argument}
    metadata |= {"was": tuple(was), "hint": hint}
    if isinstance(default, (list, dict)):
        kept = default
        field = dataclasses.field(default_factory=lambda: type(kept)(kept), metadata=metadata)
        return typing.cast(D, field)
    return dataclasses.field(default=default, metadata=metadata)


# ---------------------------------------------------------------------------------------------- values
def convert(value: Any, kind: Any) -> Any:
    """`value`, text of the command line or anything out of YAML, as `kind`; ValueError says what is wrong."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, str) and not value.strip() and Path in (kind, *arguments) and origin is not tuple:
        raise ValueError("empty, as of an unset variable; give a path")
    if kind in (object, Any, list, dict) or origin in (list, dict):
        return _structure(value, origin or kind)
    if origin in (typing.Union, types.UnionType):
        is_none = value is None or (isinstance(value, str) and value.lower() in ("none", "null", ""))
        if is_none and type(None) in arguments:
            return None
        return _first_that_fits(value, [each for each in arguments if each is not type(None)])
    if origin is Literal:
        if isinstance(value, bool):  # a bare `off` in YAML 1.1
            words = _TRUE if value else _FALSE
            value = next((choice for choice in arguments if str(choice) in words), value)
        for choice in arguments:
            if choice == value or str(choice) == str(value):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}{nearest(value, arguments)}")
    if origin is tuple:
        items = _items(value, arguments[0]) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        items = [each.strip() if isinstance(each, str) else each for each in items]
        return tuple(convert(each, arguments[0]) for each in items if each != "")
    return _scalar(value, kind)


def _items(text: str, kind: Any) -> list[str]:
    """The parts between commas; a path that exists with a comma in its name is one."""
    items, rest = [], text.split(",")
    while rest:
        joined = (",".join(rest[:count]) for count in range(len(rest), 1, -1) if kind is Path)
        whole = next(filter(_is_path, joined), rest[0])
        items.append(whole)
        rest = rest[whole.count(",") + 1 :]
    return items


def _is_path(text: str) -> bool:
    try:
        return _as_path(text).exists()
    except OSError:  # a long list is no name
        return False


def _as_path(text: str) -> Path:
    """`~` expanded, which the shell does only at the start of a word and not in `--data.source=~/x`."""
    try:
        return Path(text.strip()).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


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
        return _as_path(value) if kind is Path and isinstance(value, str) else kind(str(value))
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
    close = difflib.get_close_matches(str(word), [str(each) for each in valid], n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check(section: Any) -> None:
    """Hold every field of a section to its type, choices and bounds.

    For `__post_init__`, so that a section made in code is as strict as one from the command line.
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        if not field.init or dataclasses.is_dataclass(hints[field.name]):
            continue
        value = getattr(section, field.name)
        try:
            if (converted := convert(value, hints[field.name])) != value:
                raise ValueError(f"{value!r} where {converted!r} was meant")
            _check_bounds(value, field.metadata.get("low"), field.metadata.get("high"))
        except ValueError as error:
            raise OptionError(str(error), where=field.name) from None


def _check_bounds(value: Any, low: float | None, high: float | None) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and (
            (low is not None and number < low) or (high is not None and number > high)
        ):
            raise ValueError(f"{number} is out of range ({_range(low, high)})")


def _range(low: float | None, high: float | None) -> str:
    return f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"


# ---------------------------------------------------------------------------------------------- options
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
        """As a document shows it."""
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
            parts.append(_range(about["low"], about["high"]))
        return "; ".join(parts)

    def without(self) -> str:
        """What follows where it is not given: its default, or in words."""
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


def parse(schema: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """The options in `argv`, over those of the YAML files that its `--config-file` names, as a `schema`.

    `schema.ELSEWHERE`, if any, has names of other programs' options, without dashes, and what to give here instead.
    OptionError names the option at fault; HelpRequested holds the text that `--help` asks for.
    """
    known, elsewhere = {entry.key: entry for entry in entries(schema)}, getattr(schema, "ELSEWHERE", {})
    given, files = _command_line(argv, known, lambda: help_text(schema, prog, description), elsewhere)
    store = _store(known)
    for file in files:
        store.collect({key: _Given(value, file) for key, value in _yaml(file, known, elsewhere).items()})
    store.collect({key: _Given(value, "") for key, value in given.items()})
    values: dict[str, dict[str, Any]] = {name: {} for name in sections(schema)}
    for entry in known.values():
        held = store.content.get((entry.section or _OWN, entry.field.name))
        if held is not None:
            values[entry.section][entry.field.name] = _typed(entry, held)
        elif entry.required:
            name = entry.argument or f"--{entry.key}"
            raise OptionError(f"{name} is required: {_plain(entry.field.metadata['help'])}")
    own = values.pop("", {})
    return schema(**own, **{name: _build(name, sections(schema)[name], each) for name, each in values.items()})


_OWN = "options"  # what fastargs calls the section of options that have none


@dataclass(frozen=True)
class _Given:
    """A value and its file; opaque, because fastargs takes bare mappings apart and ignores null."""

    value: Any
    file: str


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
    values = {key if "." in key else f"{_OWN}.{key}": value for key, value in vars(given).items() if key in known}
    plain = [word for word in rest if not word.startswith("-")]
    for word in rest:
        if word.startswith("-"):
            _refuse(word.partition("=")[0].lstrip("-"), known, elsewhere)
    for key in words:  # the last takes all that is left
        many = typing.get_origin(known[key].kind) is tuple
        if plain:
            values[f"{_OWN}.{key}"] = tuple(plain) if many else plain[0]
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
        alone = entry is not None and entry.kind is bool and not equals and following.lower() not in _TRUE | _FALSE
        words.append(f"{name}=true" if alone else f"{name}{equals}{value}")
    return words


def _check_given_once(words: Sequence[str], known: Mapping[str, Entry]) -> None:
    """Of a list, the last would silently win where both are meant."""
    names = [word.partition("=")[0] for word in words]
    for key, entry in known.items():
        kinds = (entry.kind, *typing.get_args(entry.kind))  # it may be optional
        if names.count(f"--{key}") > 1 and any(typing.get_origin(kind) is tuple for kind in kinds):
            raise OptionError("given twice", where=f"--{key}", remedy="give all values at once, comma-separated")


def _refuse(key: str, known: Mapping[str, Entry], elsewhere: Mapping[str, str], where: str = "") -> NoReturn:
    """OptionError for a key that is none: its new name, its name here, or the nearest."""
    kind = "key" if where else "option"
    shown = key if where else f"--{key}"
    if key in elsewhere:
        raise OptionError(f"unknown {kind} {shown}; here, {elsewhere[key]}", where=where)
    for entry in known.values():
        if key in entry.field.metadata["was"]:
            values = " (true or false)" if entry.kind is bool else ""
            now = entry.argument or f"{'' if where else '--'}{entry.key}{values}"
            raise OptionError(f"{kind} {shown} is now {now}{', without a name' if entry.argument else ''}", where=where)
    valid = [*known, CONFIG_FILE]
    named_so = [each for each in valid if each.rpartition(".")[2] == key]
    near = nearest(named_so[0] if len(named_so) == 1 else key, valid)
    raise OptionError(f"unknown {kind} {shown}{near if where else near.replace('mean ', 'mean --')}", where=where)


def _yaml(file: str, known: Mapping[str, Entry], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_loader(file))
    except OSError as error:
        raise OptionError(f"{file}: {error.strerror}", where="--config-file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"not YAML: {' '.join(str(error).split())}", where=file) from None
    flat: dict[str, Any] = {}
    for section, body in _mapping(file, content or {}, "the file").items():
        if section in elsewhere and not isinstance(body, dict | None):
            _refuse(section, known, elsewhere, where=file)
        pairs = {section: body} if section in known else _mapping(file, body or {}, section)
        for key, value in pairs.items():
            name = key if section in known else f"{section}.{key}"
            if name not in known:
                _refuse(name, known, elsewhere, where=file)
            place = name if "." in name else f"{_OWN}.{name}"
            if place in flat:
                raise OptionError(f"{name} is given twice, once as a key of its section", where=file)
            flat[place] = value
    return flat


def _loader(file: str) -> Any:
    """A safe loader for ``file`` that refuses what YAML 1.1 would silently read as something else."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise OptionError(f"key {key!r} is given twice (line {node.start_mark.line + 1})", where=file)
            return super().construct_mapping(node, deep)

    def number(loader: Loader, node: Any) -> int | float:
        integer = node.tag.endswith("int")
        value: int | float = loader.construct_yaml_int(node) if integer else loader.construct_yaml_float(node)
        if ":" in node.value or (integer and re.fullmatch(r"[+-]?0[0-9_]+", node.value)):
            base = "to base 60" if ":" in node.value else "octal"
            what = f"{node.value} (line {node.start_mark.line + 1}) is {base} in YAML, and would be read as {value}"
            raise OptionError(what, where=file, remedy="leave out the leading 0, or put text in quotes")
        return value

    # A date is no value of any option, but a name of folders.
    Loader.yaml_implicit_resolvers = {
        start: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", number)
    return Loader


def _mapping(file: str, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{what} is not a mapping of keys to values", where=file)
    return {str(key): each for key, each in value.items()}


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


# ---------------------------------------------------------------------------------------------- help
def _plain(text: str) -> str:
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
    lines = [f"usage: python {module}{prog} {' '.join(usage)}", "", _plain(description.strip())]
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
    text = textwrap.wrap(_plain(entry.meaning() + shown), _COLUMNS - 30)
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
