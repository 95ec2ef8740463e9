"""The options in a YAML file. YAML 1.2: `off` is text, `1e-4` is a number, and `010` is ten."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from data_tools.common.options.help import CONFIG_FILE
from data_tools.common.options.mistakes import OptionError
from data_tools.common.options.section import as_meant


def read_yaml(file: str, sections: Container[str]) -> dict[str, Any]:
    """What a file gives, by the keys of the command line. OptionError if it is not a mapping of keys to values."""
    content = _load(file)
    flat: dict[str, Any] = {}
    for key, value in _mapping({} if content is None else content, "the file", file).items():
        pairs = {key: value}
        if key in sections or (value and isinstance(value, dict) and "." not in key):
            inner = {} if value is None else _mapping(value, key, file)
            pairs = {f"{key}.{name}": each for name, each in inner.items()}
        for name, each in pairs.items():
            if name in flat:
                raise OptionError(f"{name} is given twice, once as a key of its section", where=file)
            flat[name] = each
    return flat


def _mapping(value: object, what: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{what} is not a mapping of keys to values", where=file)
    return {str(key): each for key, each in value.items()}


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
        return yaml.load(content.decode())
    except (YAMLError, ValueError, RecursionError) as error:
        problem, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        what = problem.partition(" with value")[0]  # of a duplicate key, which can be long
        raise OptionError(f"not YAML: {' '.join(what.split())}{line}", where=file) from None
