"""Which part may know which: the rules of docs/ARCHITECTURE.md, by the source and in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_tools", "training")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", "data_tools/**/*.py", "training/**/*.py", "benchmarks/**/*.py", "examples/**/*.py")
    for path in ROOT.glob(pattern)
)

# What a closed beton is (its record, format and image code), the strict options, which have two halves, and what this
# process may use of the machine.
TRAINING_TAKES = {"manifest", "layout", "native", "options", "values", "machine"}
# These load in milliseconds and are tested anywhere. Those that do not exist (yet) are passed over.
LIGHT = [
    name
    for name in (
        *(f"training.{n}" for n in ("phases", "recipe", "config", "imagenet18", "inputs", "plan", "estimate", "pace")),
        *(f"training.{n}" for n in ("report", "epochs", "environment", "record", "curves", "page", "recipe_page")),
        *(f"data_tools.{n}" for n in ("manifest", "labels", "sources", "options", "layout", "sample", "dawn_tsv")),
    )
    if (ROOT / f"{name.replace('.', '/')}.py").exists()
]
HEAVY = {"torch", "torchvision", "ffcv", "cv2", "numba", "matplotlib", "tensorboard", "onnx", "pyarrow"}
KNOW_FFCV = {"data_tools/beton.py", "training/decoders.py", "training/loaders.py"}
STORES_OF_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"), source)


def imports(source: str) -> Iterator[str]:
    """Dotted names of everything that is imported anywhere in the file: modules, and what is taken from them."""
    package = source.split("/")[:-1]
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module]
            module = ".".join(part for part in base if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level_imports(source: str) -> set[str]:
    """Roots of what is imported as soon as the file is: not within a function, not for the type checker alone."""
    found: set[str] = set()
    nodes: list[ast.stmt] = list(tree(source).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def test_there_is_something_to_check() -> None:
    assert {"data_tools/sample.py", "training/phases.py", "write_datasets.py", "train_imagenet.py"} <= set(SOURCES)
    assert len(LIGHT) >= 5


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("data_tools/")])
def test_data_tools_never_imports_training(source: str) -> None:
    assert not [name for name in imports(source) if name.partition(".")[0] in ("training", "train_imagenet")]


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("training/")])
def test_training_takes_only_a_closed_beton_and_options(source: str) -> None:
    taken = {parts[1] for name in imports(source) if (parts := name.split("."))[0] == "data_tools" and parts[1:]}
    assert taken <= TRAINING_TAKES
    assert not [name for name in imports(source) if name.partition(".")[0] == "write_datasets"]


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith(PACKAGES)])
def test_only_few_know_ffcv(source: str) -> None:
    assert source in KNOW_FFCV or not [name for name in imports(source) if name.partition(".")[0] == "ffcv"]


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy_by_their_source(name: str) -> None:
    assert not top_level_imports(f"{name.replace('.', '/')}.py") & (HEAVY | {"matplotlib"})


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy_when_tried(name: str) -> None:
    code = f"import sys, {name}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (HEAVY | {"matplotlib"})


PROGRAMS = [
    source
    for source in SOURCES
    if not source.startswith("benchmarks/")
    if "ArgumentParser(" in (ROOT / source).read_text() or source in ("write_datasets.py", "train_imagenet.py")
    if '__name__ == "__main__"' in (ROOT / source).read_text()
]


def test_there_are_programs_to_check() -> None:
    tools = {"data_tools/doctor.py", "data_tools/verify.py", "training/export.py", "training/preview.py"}
    assert {"write_datasets.py", "train_imagenet.py", *tools} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_heavy(program: str) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']; sys.path.insert(0, '')\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert not set(done.stderr.split()) & HEAVY


def runs_code_from_data(node: ast.AST) -> bool:
    """Whether the node is a call that turns data into code: eval, exec, compile, a shell, an unpickling load."""
    if not isinstance(node, ast.Call):
        return False
    called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    if called.removeprefix("builtins.") in ("eval", "exec", "compile", "__import__"):
        return True
    if called in ("os.system", "os.popen") or keywords.get("shell", "False") != "False":
        return True
    if called == "torch.load":
        return keywords.get("weights_only") != "True"
    return keywords.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_that_is_handed_over_runs_as_code(source: str) -> None:
    assert not {name.partition(".")[0] for name in imports(source)} & STORES_OF_CODE
    assert not [f"{source}:{node.lineno}" for node in ast.walk(tree(source)) if runs_code_from_data(node)]


@pytest.mark.parametrize(
    ("text", "is_code"),
    [
        ("eval(x)", True),
        ("exec(x)", True),
        ("builtins.eval(x)", True),
        ("torch.load(x)", True),
        ("torch.load(x, weights_only=False)", True),
        ("np.load(x, allow_pickle=True)", True),
        ("torch.load(x, weights_only=True)", False),
        ("np.load(x)", False),
        ("os.system(x)", True),
        ("subprocess.run(x, shell=True)", True),
        ("subprocess.run(x)", False),
        ("model.eval()", False),
        ("ast.literal_eval(x)", False),
        ("re.compile(x)", False),
    ],
)
def test_the_check_for_code_finds_code(text: str, is_code: bool) -> None:
    """The check above must not pass because it looks for nothing."""
    assert any(map(runs_code_from_data, ast.walk(ast.parse(text)))) == is_code
