"""Commands and code of the documents work: they are run here, in a folder with tiny data in place of ImageNet.

Commands that call `.venv/bin/python`, and blocks of Python, are run as they stand, in this process, and must succeed.
Whatever else is shown must begin like an entry of NOT_RUN_HERE.
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
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.documented import DOCUMENTS, code, commands, make_project
from helpers.training_runs import run_main

CI = ".ci/run"
ACCEPTANCE = "tests/integration/scripts/test_gpu_acceptance.py::test_every_part_runs_on_the_cpu"
WHEELS = (
    "tests/integration/scripts/test_build_wheels.py"
    "::test_installed_without_network_or_compiler_they_convert_load_and_train"
)
WHOLE_RUN = (
    "tests/integration/scripts/test_whole_run.py::test_whole_run_in_pieces_is_complete_and_continues_bit_for_bit"
)
# How a command begins, and the test that runs it or, if none does, the words by which its document tells a reader so.
# Longer beginnings come first.
NOT_RUN_HERE = {
    "conda env create": "The conda environment has not been tried here",
    "uv run --no-sync --with nvidia-dali": "photographs",
    "uv pip install": "(not run here; the next `make env`",
    ".venv/bin/tensorboard": "`.venv/bin/tensorboard --logdir runs`",
    ".venv/bin/pre-commit run": "tests/unit/test_docs.py::test_pre_commit_hooks_are_the_checks_of_make",
    ".venv/bin/pre-commit ": "switches the checks on",
    ".venv/bin/python -m pytest ": CI,
    ".venv/bin/python -m scripts.whole_run": WHOLE_RUN,
    ".venv/bin/python benchmarks/": "photographs",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 .venv/bin/torchrun": "On GPUs and on a real network: not run",
    "for node in 0 1": "tests/integration/training/test_trainer.py::test_two_nodes_on_loopback_train_together",
    "python3 -m scripts.gpu_acceptance": ACCEPTANCE,
    "python3 -m scripts.whole_run": WHOLE_RUN,
    "python3 -m ": WHEELS,
    "sbatch ": "## SLURM",
}
# The same for the targets of make, whose words are in the Makefile.
MAKE = {
    **dict.fromkeys(
        ("help", "demo", "report"), "tests/integration/test_documented_commands.py::test_make_demo_and_make_report"
    ),
    **dict.fromkeys(("env", "lint", "type", "test"), CI),
    "gpu": ACCEPTANCE,
    "wheels": WHEELS,
    "docs": "tests/integration/scripts/test_render_docs.py::test_command_renews_page_and_plots",
    "soak": "run the slow tests",
    "bench": "run the benchmarks",
    "format": "format the code",
    "lock": "update uv.lock",
    "clean": "remove the environment",
}
# What others build on, as a reader would do it first.
FIRST = (
    ".venv/bin/python write_datasets.py --data.source=imagenet-data-sorted.tar --data.out=data/beton",
    ".venv/bin/python train_imagenet.py --config-file rn50_configs/titan8.yaml",
    ".venv/bin/python -m training.export runs/titan8/best.pt --to torchvision",
)
SHOWN = [(document, command) for document, text in DOCUMENTS.items() for command in commands(text)]


def beginning(command: str) -> str | None:
    return next((start for start in NOT_RUN_HERE if command.startswith(start)), None)


def exists(node: str) -> bool:
    path, _, name = node.partition("::")
    return (ROOT / path).is_file() and (not name or f"\ndef {name}(" in (ROOT / path).read_text())


def is_covered(how: str, text: str) -> bool:
    """Whether the test exists, or else the text has these words."""
    return exists(how) if how.startswith((CI, "tests/")) else how in " ".join(text.split())


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
    assert words[0] == ".venv/bin/python", f"{command}: neither run nor in NOT_RUN_HERE"
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
    assert set(FIRST) <= set(commands(DOCUMENTS["README"]))


# Each once, with a document that shows it.
TO_RUN = {command: document for document, command in SHOWN if not (beginning(command) or command.startswith("make "))}


@pytest.mark.parametrize("command", TO_RUN, ids=lambda command: f"{TO_RUN[command]}: {command[17:90]}")
def test_documented_command_succeeds(project: Path, command: str) -> None:
    # The cards' rates are of the network that is trained, not of the small one that stands in for it here.
    network = " --model.arch=resnet50" if "training.estimate" in command else ""
    run_command(command + network, project)


WHICH_COMMAND = re.findall(r"\| `(--data\.source=\S+.*?)` \|$", DOCUMENTS["CONVERSION"], re.MULTILINE)


@pytest.mark.parametrize("options", WHICH_COMMAND)
def test_every_source_in_the_table_converts(project: Path, tmp_path: Path, options: str) -> None:
    run_command(f".venv/bin/python write_datasets.py {options} --data.out={tmp_path} --data.caps=160", project)
    splits = ["train"] if "splits=train" in options else ["train", "val"]
    assert sorted(path.name for path in tmp_path.glob("*.beton")) == [f"{split}_160.beton" for split in splits]


@pytest.mark.parametrize("document", [document for document, text in DOCUMENTS.items() if code(text)])
def test_documented_code_runs(project: Path, document: str) -> None:
    shown = code(DOCUMENTS[document])
    (project / "shown.py").write_text(shown)
    with in_folder(project), redirect_stdout(io.StringIO()) as out:
        runpy.run_path("shown.py")
    assert "print(" not in shown or out.getvalue()


def test_what_is_not_run_here_is_run_elsewhere_or_its_reader_is_told() -> None:
    begun = [(document, command, start) for document, command in SHOWN if (start := beginning(command))]
    assert {start for *_, start in begun} == set(NOT_RUN_HERE), "no entry outlives its command"
    assert not [each for each in begun if not is_covered(NOT_RUN_HERE[each[2]], DOCUMENTS[each[0]])]
    for _, command, _ in begun:
        script = re.search(r"benchmarks/\w+\.py", command)
        flags = re.findall(r"--[a-z-]+", command.partition(script[0])[2]) if script else []
        assert not script or all(f'"{flag}"' in (ROOT / script[0]).read_text() for flag in flags), command


def test_every_target_of_make_is_run_or_said_not_to_be() -> None:
    makefile = (ROOT / "Makefile").read_text()
    typed = re.findall(r"(?:^ {4}|`)make ((?:[a-z]+ )*[a-z]+)", "\n".join(DOCUMENTS.values()), re.MULTILINE)
    assert set(MAKE) == set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {target for line in typed for target in line.split()} <= set(MAKE)
    assert not [target for target, how in MAKE.items() if not is_covered(how, makefile)]
    ci = (ROOT / CI).read_text().splitlines()
    assert not [target for target, how in MAKE.items() if how == CI and f"make {target}" not in ci]


def test_make_demo_and_make_report(project: Path) -> None:
    """`make demo` on a smaller tar, then `make report`, as make runs them."""
    for target in ("help", "demo", "report"):
        command = ["make", "--no-print-directory", target]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len((project / "runs" / "demo" / "epochs.csv").read_text().splitlines()) == 10
    assert (project / "runs" / "demo" / "report.html").is_file()
