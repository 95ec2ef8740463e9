"""The tables of the documents name every option, flag, key and field that there is, with its default."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from data_tools.beton.format import HEADER, IMAGE, SAMPLE, SAMPLES_START
from data_tools.beton.manifest import Manifest
from data_tools.common.options import Section, options_of
from data_tools.convert.config import WriteSpec
from scripts import render_option_docs
from training.config.run_config import RunConfig

ROOT = Path(__file__).parents[2]


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the table under this line of headings, a list a row."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    tables = re.findall(rf"^{re.escape(heading)}\n\|[-:|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables, (document, heading)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("page", render_option_docs.PARTS)
def test_option_tables_are_up_to_date(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert render_option_docs.rendered(page, text) == text, "make docs renews it"


def test_option_tables_hold_every_program() -> None:
    programs = {
        f"{package}.{path.parent.name if path.stem == '__main__' else path.stem}"
        for package in ("data_tools", "training")
        for path in (*(ROOT / package).glob("*.py"), *(ROOT / package).glob("*/__main__.py"))
        if "__main__" in path.read_text()
    }
    assert set(render_option_docs.TOOLS) == programs


@pytest.mark.parametrize("schema", [RunConfig, WriteSpec])
def test_every_option_says_what_follows_without_it(schema: type[Section]) -> None:
    for key, field in options_of(schema).items():
        given = field.is_required() or field.default not in (None, ())
        assert given or "by default" in (field.description or ""), key


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
