"""The options in a YAML file, and what YAML 1.1 would silently read as something else, which is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.common.options.declaration import CONFIG_FILE, Entry, OptionError, refuse_unknown
from data_tools.common.options.values import convert


def read_yaml(file: str, known: Mapping[str, Entry], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """What a file gives, by the keys of the command line; OptionError for keys that are not in `known`."""
    import yaml

    try:
        path: Path = convert(file, Path)
    except ValueError as error:
        raise OptionError(str(error), where=f"--{CONFIG_FILE}") from None
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader(file))
    except OSError as error:
        raise OptionError(f"{file}: {error.strerror}", where=f"--{CONFIG_FILE}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"not YAML: {' '.join(str(error).split())}", where=file) from None
    flat: dict[str, Any] = {}
    for section, body in _mapping(file, {} if content is None else content, "the file").items():
        if section in elsewhere and not isinstance(body, dict | None):
            refuse_unknown(section, known, elsewhere, where=file)
        pairs = {section: body} if section in known else _mapping(file, {} if body is None else body, section)
        for key, value in pairs.items():
            name = key if section in known else f"{section}.{key}"
            if name not in known:
                refuse_unknown(name, known, elsewhere, where=file)
            if name in flat:
                raise OptionError(f"{name} is given twice, once as a key of its section", where=file)
            flat[name] = value
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

    # No option takes a date, but folders are named by dates.
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
