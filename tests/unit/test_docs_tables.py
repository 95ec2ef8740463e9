"""The tables of the documents name every option, flag, key and field that there is, with its default."""

import contextlib
import dataclasses
import importlib
import io
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.beton.format import HEADER, IMAGE, SAMPLE, SAMPLES_START
from data_tools.beton.manifest import Manifest
from data_tools.common.options import REQUIRED
from data_tools.convert.config import WriteSpec
from training.config import phases_yaml
from training.config.run_config import RunConfig

ROOT = Path(__file__).parents[2]
COMPUTED = {"--write.workers": "usable cores"}
TOOLS = [
    *sorted(
        f"{path.parent.name}.{path.stem}"
        for package in ("data_tools", "training")
        for path in (ROOT / package).glob("*.py")
        if "__main__" in path.read_text()
    ),
    "data_tools.doctor",
    "data_tools.sample",
]


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the table under this line of headings, a list a row."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    tables = re.findall(rf"^{re.escape(heading)}\n\|[-:|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables, (document, heading)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


def fields(schema: type) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Name as on the command line, field and type of each option."""
    for section, kind in typing.get_type_hints(schema).items():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield f"--{section}.{field.name}", field, hints[field.name]


def shown_default(name: str, field: dataclasses.Field[Any]) -> str:
    if field.default is REQUIRED:
        return "required"
    if field.default is None or name in COMPUTED:
        return COMPUTED.get(name, "none")
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def choices(kind: Any) -> set[str]:
    if typing.get_origin(kind) is typing.Literal:
        return {str(choice) for choice in typing.get_args(kind)}
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return set().union(*(choices(each) for each in typing.get_args(kind)))
    return set()


@pytest.mark.parametrize(("document", "schema"), [("CONVERSION.md", WriteSpec), ("OPTIONS.md", RunConfig)])
def test_options_tables_name_every_option_with_its_default(document: str, schema: type) -> None:
    """All of them, in the order of `--help`."""
    table = rows(document, "| option | default | meaning |")
    assert [row[0].strip("`") for row in table] == [name for name, _, _ in fields(schema)]
    for (_, default, meaning), (name, field, kind) in zip(table, fields(schema), strict=True):
        assert default == shown_default(name, field), name
        assert len(meaning) > 3
        assert choices(kind) <= set(re.findall(r"`([^`]+)`", f"{default} {meaning}")), name


def test_phases_table_names_every_key() -> None:
    table = rows("OPTIONS.md", "| key | default | meaning |")
    assert {row[0].strip("`"): row[1] == "required" for row in table} == phases_yaml._PHASE_KEYS


def flags(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9_.-]*[a-z0-9]", text))


def program(tool: str) -> Any:
    """The module that `python -m` runs."""
    module = importlib.import_module(tool)
    return importlib.import_module(f"{tool}.__main__") if hasattr(module, "__path__") else module


def help_of(tool: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
        program(tool).main(["--help"])
    assert left.value.code == 0
    return out.getvalue()


def test_tools_table_names_every_flag() -> None:
    documented: dict[str, set[str]] = {}
    tool = ""
    for name, arguments, _ in rows("OPTIONS.md", "| program | arguments and options | meaning |"):
        tool = name.strip("`") or tool
        documented.setdefault(tool, set()).update(flags(arguments))
    assert sorted(documented) == sorted(TOOLS)
    shared = {name for name, _, _ in fields(RunConfig)}
    for tool, shown in documented.items():
        there = flags(help_of(tool)) - {"--help"}
        assert shown == (there - shared - {"--config-file", "--section.key"} if "preview" in tool else there), tool


def test_format_tables_name_every_field() -> None:
    header, sample = HEADER.fields, IMAGE.fields
    assert header is not None and sample is not None
    told = {row[2].strip("`"): int(row[0]) for row in rows("FORMAT.md", "| offset | type | field | here |")}
    assert told == {name: field[1] for name, field in header.items()}
    told = {row[2].strip("`"): int(row[0]) for row in rows("FORMAT.md", "| offset | type | field | |") if row[2]}
    assert told == {name: field[1] for name, field in sample.items()} | {"label": SAMPLE.fields["f1"][1]}
    begins = {row[0]: row[2] for row in rows("FORMAT.md", "| part | bytes | begins at |")}
    assert (begins["fields"], begins["sample table"]) == (str(HEADER.itemsize), str(SAMPLES_START))


def test_manifest_table_names_every_key() -> None:
    told = [row[0].strip("`") for row in rows("FORMAT.md", "| key | holds |")]
    assert told == [field.name for field in dataclasses.fields(Manifest)]


def test_pre_commit_hooks_are_the_checks_of_make() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repositories[0]["hooks"]]
    makefile = (ROOT / "Makefile").read_text()
    checks = re.findall(r"^(?:lint|type): .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert [f"\t{entry.replace('.venv/bin/python', '$(PYTHON)')}" for entry in entries] == "".join(checks).splitlines()
