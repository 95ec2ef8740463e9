"""What the documents tell a reader to type or open exists, and their tables are those of the code."""

from __future__ import annotations

import ast
import dataclasses
import re

from helpers import ROOT
from ruamel.yaml import YAML

from data_tools.beton.format import HEADER, IMAGE, SAMPLE, SAMPLES_START
from data_tools.beton.manifest import Manifest
from data_tools.common.options import options_of
from data_tools.convert.config import WriteSpec
from scripts import render_option_docs
from training.config.run_config import RunConfig

PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/results/*.md"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(PAGES)}
DOCS = ROOT / "docs"
README = TEXTS[ROOT / "README.md"]


# ---------------------------------------------------------------------------------------------- what is named exists
def test_options_exist() -> None:
    known = {f"--{key}" for schema in (WriteSpec, RunConfig) for key in options_of(schema)} | {"--section.key"}
    written = {(path.name, each) for path, text in TEXTS.items() for each in re.findall(r"--[a-z]+\.[a-z_0-9]+", text)}
    assert not {each for each in written if each[1] not in known}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and others make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_links_files_and_modules_exist() -> None:
    missing = []
    for path, text in TEXTS.items():
        for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text):
            target = (path.parent / link).resolve() if link else path
            headings = re.findall(r"^#+ (.+)$", TEXTS.get(target, ""), re.MULTILINE)
            if not target.exists() or (anchor and anchor not in map(slug, headings)):
                missing.append((path.name, link, anchor))
        named = re.findall(r"`((?:data_tools|training|tests|rn50_configs|docs|benchmarks|\.ci)/[\w./]+)`", text)
        named += [module.replace(".", "/") for module in re.findall(r"-m ((?:data_tools|training)\.\w+)", text)]
        named += re.findall(r"\brn50_configs/\w+\.yaml", text)
        missing += [
            (path.name, each) for each in named if not ((ROOT / each).exists() or (ROOT / f"{each}.py").exists())
        ]
    assert not missing


def test_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.split()) < 1200
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= set(re.findall(r"\]\(([^)#]+)", README))


def test_every_recipe_is_listed() -> None:
    row = r"^\| \[`(\w+)`\]\((?:\.\./)?rn50_configs/(\w+)\.yaml\)"
    some, all_of_them = (re.findall(row, text, re.MULTILINE) for text in (README, TEXTS[DOCS / "RECIPES.md"]))
    assert all(shown == file for shown, file in some + all_of_them)
    assert {file for _, file in all_of_them} == {path.stem for path in ROOT.glob("rn50_configs/*.yaml")}


# Of the messages in docs/TROUBLESHOOTING.md, those that others print.
FOREIGN = {"torch.OutOfMemoryError: CUDA out of memory", "unhandled system error", "No space left on device"}


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """All in bold, after the section about other people's builds; `…` stands for what differs."""
    printed = {
        " ".join(node.value.split())
        for package in ("data_tools", "training")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    own = TEXTS[DOCS / "TROUBLESHOOTING.md"].partition("## Converting")[2]
    bold = [" ".join(each.split()) for each in re.findall(r"\*\*(.+?)\*\*", own, re.DOTALL)]
    quoted = {each for title in bold for each in re.findall(r"`([^`]+)`", title)} - FOREIGN
    assert len(quoted) > 10
    missing = {
        (message, part)
        for message in quoted
        for part in filter(None, map(str.strip, message.split("…")))
        if not any(part in text for text in printed)
    }
    assert not missing


def test_tests_named_in_reliability_exist() -> None:
    listed = TEXTS[DOCS / "RELIABILITY.md"].partition("\n## The tests\n")[2]
    items = re.findall(r"^- `(\S+)`:(.*(?:\n  .*)*)", listed, re.MULTILINE)
    files = {file: re.findall(r"`(test_\w+)`", tests) for file, tests in items}
    assert len(files) == listed.count("\n- ") > 10 and all(files.values())
    sources = {file: path.read_text() for file in files if (path := ROOT / "tests" / file).is_file()}
    assert not [
        f"{file}::{name}" for file in files for name in files[file] if f"def {name}(" not in sources.get(file, "")
    ]


# ---------------------------------------------------------------------------------------------- tables
def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the table under this line of headings, a list a row."""
    table = rf"^{re.escape(heading)}\n\|[-:|]+\|\n((?:\|.*\n)+)"
    tables = re.findall(table, TEXTS[DOCS / document], re.MULTILINE)
    assert tables, (document, heading)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


def test_option_tables_are_up_to_date_and_hold_every_program() -> None:
    page = TEXTS[DOCS / "OPTIONS.md"]
    assert render_option_docs.rendered(page) == page, "make docs renews them"
    programs = {
        f"{package}.{path.parent.name if path.stem == '__main__' else path.stem}"
        for package in ("data_tools", "training")
        for path in (*(ROOT / package).glob("*.py"), *(ROOT / package).glob("*/__main__.py"))
        if "__main__" in path.read_text()
    }
    assert set(render_option_docs.TOOLS) == programs


def test_every_option_says_what_follows_without_it() -> None:
    for key, field in (options_of(RunConfig) | options_of(WriteSpec)).items():
        given = field.is_required() or field.default not in (None, ())
        assert given or "by default" in (field.description or ""), key


def test_tables_of_the_format_name_every_field_and_key() -> None:
    header, sample = HEADER.fields, IMAGE.fields
    assert header is not None and sample is not None
    told = {row[2].strip("`"): int(row[0]) for row in rows("FORMAT.md", "| offset | type | field | here |")}
    assert told == {name: field[1] for name, field in header.items()}
    told = {row[2].strip("`"): int(row[0]) for row in rows("FORMAT.md", "| offset | type | field | |") if row[2]}
    assert told == {name: field[1] for name, field in sample.items()} | {"label": SAMPLE.fields["f1"][1]}
    begins = {row[0]: row[2] for row in rows("FORMAT.md", "| part | bytes | begins at |")}
    assert (begins["fields"], begins["sample table"]) == (str(HEADER.itemsize), str(SAMPLES_START))
    keys = [row[0].strip("`") for row in rows("FORMAT.md", "| key | holds |")]
    assert keys == [field.name for field in dataclasses.fields(Manifest)]


# ---------------------------------------------------------------------------------------------- checks
def test_pre_commit_hooks_are_the_checks_of_make() -> None:
    repositories = YAML(typ="safe", pure=True).load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    hooks = [hook["entry"].removesuffix(" --force-exclude") for hook in repositories[0]["hooks"]]
    checks = re.findall(r"^(?:lint|type): .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [f"\t{hook.replace('.venv/bin/python', '$(PYTHON)')}" for hook in hooks] == "".join(checks).splitlines()


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text()
    assert "    make test" in README and "    make demo" in README
