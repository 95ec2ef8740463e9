"""Which part may import which: the rules of docs/ARCHITECTURE.md, read from the tree."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("data_tools", "training", "benchmarks", "examples", "scripts")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
    for path in ROOT.glob(pattern)
)
BETON_PACKAGES = {"data_tools.common", "data_tools.common.options", "data_tools.native", "data_tools.beton"}
# A package and the packages that it may import; the root of each of the two holds its programs.
MAY_IMPORT = {
    "data_tools.common": set(),
    "data_tools.common.options": {"data_tools.common"},
    "data_tools.native": {"data_tools.common"},
    "data_tools.beton": {"data_tools.common", "data_tools.native"},
    "data_tools.sample": {"data_tools.common", "data_tools.common.options"},
    "data_tools.sources": BETON_PACKAGES,
    "data_tools.convert": BETON_PACKAGES | {"data_tools.sources"},
    "data_tools.doctor": BETON_PACKAGES,
    "data_tools": BETON_PACKAGES | {"data_tools.convert"},
    "training.config": BETON_PACKAGES,
    "training.estimation": BETON_PACKAGES | {"training.config"},
    "training.runlog": BETON_PACKAGES | {"training.config"},
    "training.reporting": BETON_PACKAGES | {"training.config", "training.runlog"},
    "training.model": BETON_PACKAGES | {"training.config"},
    "training.loader": BETON_PACKAGES | {"training.config"},
    "training.distributed": BETON_PACKAGES | {"training.config"},
    "training.engine": BETON_PACKAGES
    | {f"training.{name}" for name in ("config", "runlog", "model", "loader", "distributed")},
    "training": BETON_PACKAGES
    | {
        f"training.{name}"
        for name in ("config", "estimation", "runlog", "reporting", "model", "loader", "distributed", "engine")
    },
}
MAY_IMPORT_FFCV = {"training.loader"}
MOST_FILES = 10
UNSAFE_SERIALISERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


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


def package_of(source: str) -> str:
    return source.rpartition("/")[0].replace("/", ".")


def module_of(source: str) -> str:
    return source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


IN_PACKAGES = [source for source in SOURCES if package_of(source).startswith(("data_tools", "training"))]
MODULES = {module_of(source): source for source in IN_PACKAGES}


def our_modules(source: str) -> set[str]:
    """The modules of both packages that this file imports, wherever in it."""
    return {name for name in imports(source) if name in MODULES and not MODULES[name].endswith("__init__.py")}


def test_every_package_has_a_rule() -> None:
    assert {package_of(source) for source in IN_PACKAGES} == set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_allowed_packages(package: str) -> None:
    for source in (s for s in IN_PACKAGES if package_of(s) == package):
        taken = {package_of(MODULES[name]) for name in imports(source) if name in MODULES}
        assert taken - {package} <= MAY_IMPORT[package], source


def test_no_import_cycle_between_packages() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def test_no_import_cycle_between_modules() -> None:
    TopologicalSorter(
        {module_of(source): our_modules(source) - {module_of(source)} for source in IN_PACKAGES}
    ).prepare()


def test_root_programs_are_not_imported_by_packages() -> None:
    for source in IN_PACKAGES:
        assert not [name for name in imports(source) if name.partition(".")[0] in ("write_datasets", "train_imagenet")]


@pytest.mark.parametrize("folder", sorted({source.rpartition("/")[0] for source in IN_PACKAGES}))
def test_folder_has_at_most_ten_files(folder: str) -> None:
    files = [f for f in (ROOT / folder).iterdir() if f.is_file() and f.name != "__init__.py" and f.suffix != ".so"]
    assert len(files) <= MOST_FILES, sorted(file.name for file in files)


@pytest.mark.parametrize("source", [s for s in IN_PACKAGES if package_of(s) not in MAY_IMPORT_FFCV])
def test_only_the_loader_imports_ffcv(source: str) -> None:
    assert not [name for name in imports(source) if name.partition(".")[0] == "ffcv"]


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
def test_no_code_is_run_from_data(source: str) -> None:
    assert not {name.partition(".")[0] for name in imports(source)} & UNSAFE_SERIALISERS
    assert not [f"{source}:{node.lineno}" for node in ast.walk(tree(source)) if runs_code_from_data(node)]


CODE = ("eval(x)", "exec(x)", "builtins.eval(x)", "torch.load(x)", "torch.load(x, weights_only=False)")
CODE += ("np.load(x, allow_pickle=True)", "os.system(x)", "subprocess.run(x, shell=True)")
DATA = ("torch.load(x, weights_only=True)", "np.load(x)", "subprocess.run(x)", "model.eval()", "ast.literal_eval(x)")
DATA += ("re.compile(x)",)


@pytest.mark.parametrize(("text", "is_code"), [*((text, True) for text in CODE), *((text, False) for text in DATA)])
def test_runs_code_from_data_finds_such_calls(text: str, is_code: bool) -> None:
    assert any(map(runs_code_from_data, ast.walk(ast.parse(text)))) == is_code
