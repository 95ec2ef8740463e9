"""What the documents tell a reader to type or open exists."""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from data_tools.common.options import options_of
from data_tools.convert.config import WriteSpec
from training.config.run_config import RunConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
README = (ROOT / "README.md").read_text()


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def options(schema: type) -> set[str]:
    return {f"--{key}" for key in options_of(schema)}


def commands(document: str) -> list[list[str]]:
    """The words of each command: of indented lines, and of what is in backticks, that calls one of the programs."""
    candidates = [line.strip() for line in text(document).splitlines() if line.startswith("    ")]
    candidates += re.findall(r"`([^`]+)`", text(document))
    words = [shlex.split(c.partition("  #")[0], posix=False) for c in candidates if "python" in c and "'" not in c]
    return [w for w in words if len(w) > 1 and w[0].endswith("python")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_exist(document: str) -> None:
    written = set(re.findall(r"--[a-z]+\.[a-z_0-9]+", text(document)))
    assert written <= options(WriteSpec) | options(RunConfig) | {"--section.key"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_take_the_options_that_are_shown(document: str) -> None:
    """A training option shown for the conversion exists, and is still wrong."""
    schemas = {"write_datasets.py": WriteSpec, "train_imagenet.py": RunConfig}
    for words in commands(document):
        program = words[1]
        if program in schemas:
            shown = {w.partition("=")[0] for w in words[2:] if w.startswith("--")} - {"--config-file", "--help"}
            assert shown <= options(schemas[program]), words
            recipes = [w for w in words if w.startswith("rn50_configs/")]
            assert all((ROOT / recipe).is_file() for recipe in recipes), words
        elif program == "-m" and words[2].startswith(("data_tools.", "training.")) and "…" not in words[2]:
            assert importlib.util.find_spec(words[2]), words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    typed = re.findall(r"(?:^    |`)make ((?:[a-z]+ )*[a-z]+)", text(document), re.MULTILINE)
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert {target for line in typed for target in line.split()} <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_exist(document: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", text(document)) if not link.startswith("http")]
    missing = [link for link in links if not ((ROOT / document).parent / link).exists()]
    named = re.findall(r"`((?:data_tools|training|tests|rn50_configs|docs|benchmarks|\.ci)/[\w./]+)`", text(document))
    missing += [name for name in named if not ((ROOT / name).exists() or (ROOT / f"{name}.py").exists())]
    assert not missing


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and others make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_anchors_exist(document: str) -> None:
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text(document)):
        target = ((ROOT / document).parent / link).resolve() if link else ROOT / document
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in map(slug, headings), (link, anchor)


def test_readme_links_to_every_page() -> None:
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")}
    assert pages <= set(re.findall(r"\]\(([^)#]+)", README))


# Of the messages in docs/TROUBLESHOOTING.md, those that others print; and what is no message.
FOREIGN = {"torch.OutOfMemoryError: CUDA out of memory", "unhandled system error", "No space left on device", "kill -9"}


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """All in bold, after the section about other people's builds; `…` stands for what differs."""
    printed = {
        " ".join(node.value.split())
        for package in ("data_tools", "training")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    own = text("docs/TROUBLESHOOTING.md").partition("## Converting")[2]
    bold = [" ".join(each.split()) for each in re.findall(r"\*\*(.+?)\*\*", own, re.DOTALL)]
    quoted = {each for title in bold for each in re.findall(r"`([^`]+)`", title)} - FOREIGN
    assert len(quoted) > 30
    for message in quoted:
        for piece in message.split("…"):
            assert any(piece.strip() in constant for constant in printed), message


def test_tests_named_in_reliability_exist() -> None:
    promised = re.findall(r"`((?:unit|integration|faults)/[\w/]+\.py)::(\w+)`", text("docs/RELIABILITY.md"))
    missing = [f"{file}::{name}" for file, name in promised if f"def {name}(" not in text(f"tests/{file}")]
    assert len(promised) > 30
    assert not missing


def test_every_recipe_is_listed() -> None:
    pages = (README, text("docs/RECIPES.md"))
    some, all_of_them = (
        re.findall(r"^\| \[`(\w+)`\]\((?:\.\./)?rn50_configs/(\w+)\.yaml\)", page, re.MULTILINE) for page in pages
    )
    assert all(shown == file for shown, file in some + all_of_them)
    assert {file for _, file in all_of_them} == {p.stem for p in ROOT.glob("rn50_configs/*.yaml")}


def test_readme_is_short() -> None:
    assert len(README.split()) < 1200


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "\nmake test\n" in text(".ci/run")
    assert "    make test" in README
    assert "    make demo" in README
