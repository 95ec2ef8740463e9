"""Commands and code of the documents work: they are run here, in a folder with tiny data in place of ImageNet.

Commands that call `.venv/bin/python`, and blocks of Python, are run as they stand, in this process, and must succeed.
Whatever else is shown must be in one of the tables below, with the reason why it is not run, or with the test that
does that.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.documented import DOCUMENTS, Snippet, make_project, make_targets, snippets
from helpers.training_runs import run_main


@dataclass(frozen=True, slots=True)
class RunBy:
    """Run by this test, or by what CI starts."""

    node: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """Not run; `said` are the document's own words that tell a reader so."""

    why: str
    said: str


CI = RunBy(".ci/run")
ACCEPTANCE = "tests/integration/scripts/test_gpu_acceptance.py::test_every_part_runs_on_the_cpu"
WHEELS = (
    "tests/integration/scripts/test_build_wheels.py"
    "::test_installed_without_network_or_compiler_they_convert_load_and_train"
)
# By how they begin. Longer beginnings come first.
EXCEPTIONS: dict[str, RunBy | NotRun] = {
    "make ": RunBy("tests/integration/test_documented_commands.py::test_make_demo_and_make_report"),
    "conda env create": NotRun("network", "The conda environment has not been tried here"),
    "uv run --no-sync --with nvidia-dali": NotRun("network, photographs, and time", "photographs"),
    "uv pip install": NotRun("network", "(not run here; the next `make env`"),
    ".venv/bin/tensorboard": NotRun("a server", "`.venv/bin/tensorboard --logdir runs`"),
    ".venv/bin/pre-commit run": RunBy("tests/unit/test_docs_tables.py::test_pre_commit_hooks_are_the_checks_of_make"),
    ".venv/bin/pre-commit ": NotRun("it changes the reader's .git", "switches the checks on"),
    ".venv/bin/python -m pytest ": CI,
    ".venv/bin/python benchmarks/": NotRun("photographs, and time", "photographs"),
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 .venv/bin/torchrun": NotRun(
        "machines with GPUs", "On GPUs and on a real network: not run"
    ),
    "for node in 0 1": RunBy("tests/integration/training/test_trainer.py::test_two_nodes_on_loopback_train_together"),
    "python3 -m scripts.gpu_acceptance": RunBy(ACCEPTANCE),
    "python3 -m ": RunBy(WHEELS),
    "sbatch ": NotRun("SLURM", "## SLURM"),
}
CODE_TESTED_ELSEWHERE = {"docs/FROM_PYTHON.md": "tests/integration/test_examples.py::test_code_of_from_python_runs"}
MAKE: dict[str, RunBy | NotRun | None] = {
    **dict.fromkeys(("help", "demo", "report")),  # run below
    **dict.fromkeys(("env", "lint", "type", "test"), CI),
    "gpu": RunBy(ACCEPTANCE),
    "wheels": RunBy(WHEELS),
    "docs": RunBy("tests/integration/scripts/test_render_recipe_docs.py::test_command_renews_page_and_plots"),
    "soak": NotRun("many minutes", "The long half"),
    "bench": NotRun("photographs, and time", "run the benchmarks"),
    "format": NotRun("it changes the sources", "format the code"),
    "lock": NotRun("network", "update uv.lock"),
    "clean": NotRun("it removes the environment", "remove the environment"),
}
# Indented, but no commands: by how they begin.
FIGURES = ("epoch    hours     top1", "source bytes", "- epochs: [13, 25]", "lr(24, 714, 714)")
# What others build on, as a reader would do it first.
FIRST = (
    ".venv/bin/python write_datasets.py --data.source=imagenet-data-sorted.tar --data.out=data/beton",
    ".venv/bin/python train_imagenet.py --config-file rn50_configs/titan8.yaml",
    ".venv/bin/python -m training.export runs/titan8/best.pt --to torchvision",
)


def blocks_of_figures() -> set[tuple[str, str]]:
    """Lines of indented blocks that are none of a command."""
    lines = set()
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for block in re.findall(r"(?:^ {4,}\S.*\n?)+", text, re.MULTILINE):
            if block.strip().startswith(FIGURES):
                lines |= {(document, re.sub(r"\s{2,}# .*", "", line).strip()) for line in block.splitlines()}
    return lines


EVERYTHING = [each for document in DOCUMENTS for each in snippets(document)]
COMMANDS = [s for s in EVERYTHING if not s.is_code and (s.document, s.text) not in blocks_of_figures()]


def exception(command: str) -> RunBy | NotRun | None:
    return next((found for start, found in EXCEPTIONS.items() if command.startswith(start)), None)


TO_RUN = list({s.text: s for s in COMMANDS if exception(s.text) is None}.values())
CODE = [s for s in EVERYTHING if s.is_code and s.document not in CODE_TESTED_ELSEWHERE]


def exists(node: str) -> bool:
    path, _, name = node.partition("::")
    return (ROOT / path).is_file() and (not name or f"\ndef {name}(" in (ROOT / path).read_text())


# ---------------------------------------------------------------------------------------------- running
@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Works in a folder; what a program does to signals or to how things are drawn is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before, backend = Path.cwd(), os.environ.get("MPLBACKEND")
    os.chdir(folder)
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("MPLBACKEND") if backend is None else os.environ.update(MPLBACKEND=backend)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_command(command: str, folder: Path) -> None:
    """A command of `.venv/bin/python`, in this process: torch is loaded already."""
    words = [
        path
        for word in shlex.split(command)
        for path in (sorted(str(each.relative_to(folder)) for each in folder.glob(word)) if "*" in word else [word])
    ]
    assert words[0] == ".venv/bin/python", f"{command}: neither run nor in a table"
    name, *arguments = words[2:] if words[1] == "-m" else [words[1].removesuffix(".py").replace("/", "."), *words[2:]]
    with in_folder(folder):
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        status, out, err = run_main(module.main, arguments)
    assert status == 0, f"{command}\n{out}{err}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, sorted_tar: Path) -> Path:
    """The project with tiny data, after its README's first steps."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, sorted_tar)
    for command in FIRST:
        run_command(command, folder)
    shutil.copytree(folder / "runs" / "titan8", folder / "runs" / "another")
    return folder


# ---------------------------------------------------------------------------------------------- tests
def test_first_commands_are_those_of_the_readme() -> None:
    readme = {each.text for each in EVERYTHING if each.document == "README.md"}
    assert set(FIRST) <= readme


@pytest.mark.parametrize("command", TO_RUN, ids=lambda each: f"{Path(each.document).stem}: {each.text[17:90]}")
def test_documented_command_succeeds(project: Path, command: Snippet) -> None:
    # The cards' rates are of the network that is trained, not of the small one that stands in for it here.
    network = " --model.arch=resnet50" if "training.estimate" in command.text else ""
    run_command(command.text + network, project)


WHICH_COMMAND = re.findall(r"\| `(--data\.source=\S+.*?)` \|$", (ROOT / "docs/CONVERSION.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("options", WHICH_COMMAND)
def test_every_source_in_the_table_converts(project: Path, tmp_path: Path, options: str) -> None:
    run_command(f".venv/bin/python write_datasets.py {options} --data.out={tmp_path} --data.caps=160", project)
    splits = ["train"] if "splits=train" in options else ["train", "val"]
    assert sorted(path.name for path in tmp_path.glob("*.beton")) == [f"{split}_160.beton" for split in splits]


@pytest.mark.parametrize("code", CODE, ids=lambda each: f"{Path(each.document).stem}-{len(each.text)}")
def test_documented_code_runs(project: Path, code: Snippet) -> None:
    (project / "shown.py").write_text(code.text)
    with in_folder(project), redirect_stdout(io.StringIO()) as out:
        runpy.run_path("shown.py")
    assert "print(" not in code.text or out.getvalue()


@pytest.mark.parametrize("start", EXCEPTIONS)
def test_document_says_which_commands_were_not_run(start: str) -> None:
    """No exception outlives its command; a reader is told, and a test that is named exists."""
    commands = [each for each in COMMANDS if exception(each.text) is EXCEPTIONS[start]]
    assert commands
    for each in commands:
        match EXCEPTIONS[start]:
            case RunBy(node):
                assert exists(node)
            case NotRun(said=said):
                assert said in " ".join((ROOT / each.document).read_text(encoding="utf-8").split())
        script = next((word for word in each.text.split() if word.startswith("benchmarks/")), None)
        flags = re.findall(r"--[a-z-]+", each.text.partition(script)[2]) if script else []
        assert not script or all(f'"{flag}"' in (ROOT / script).read_text() for flag in flags), each


def test_exempt_code_and_figures_exist() -> None:
    assert all(exists(node) for node in CODE_TESTED_ELSEWHERE.values())
    texts = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    assert all(f"    {start}" in texts for start in FIGURES)


def test_every_make_target_is_run_or_exempt() -> None:
    makefile = (ROOT / "Makefile").read_text()
    ci = (ROOT / ".ci/run").read_text().splitlines()
    assert set(MAKE) == set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {target for document in DOCUMENTS for target in make_targets(document)} <= set(MAKE)
    everywhere = makefile + "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    for target, how in MAKE.items():
        match how:
            case RunBy(node=".ci/run"):
                assert f"make {target}" in ci
            case RunBy(node):
                assert exists(node)
            case NotRun(said=said):
                assert said in everywhere, target


def test_make_demo_and_make_report(project: Path) -> None:
    """`make demo` on a smaller tar, then `make report`, as make runs them."""
    for target in (target for target, how in MAKE.items() if how is None):
        command = ["make", "--no-print-directory", target]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len((project / "runs" / "demo" / "epochs.csv").read_text().splitlines()) == 10
    assert (project / "runs" / "demo" / "report.html").is_file()
