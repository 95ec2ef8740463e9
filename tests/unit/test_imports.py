"""Which part may import which: the rules of docs/ARCHITECTURE.md, read from the tree. A failure lists all offenders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

from helpers import ROOT

FOLDERS = ("data_tools", "training", "benchmarks", "examples", "scripts")
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"), path)
    for pattern in ("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
    for path in sorted(ROOT.glob(pattern))
}
BETON_PACKAGES = {"data_tools.common", "data_tools.common.options", "data_tools.native", "data_tools.beton"}
BELOW_ENGINE = {f"training.{name}" for name in ("config", "runlog", "model", "loader", "distributed")}
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
    "training.model.kernels": set(),
    "training.model": BETON_PACKAGES | {"training.config", "training.model.kernels"},
    "training.loader": BETON_PACKAGES | {"training.config"},
    "training.distributed": BETON_PACKAGES | {"training.config"},
    "training.engine": BETON_PACKAGES | BELOW_ENGINE,
    "training": BETON_PACKAGES | BELOW_ENGINE | {"training.estimation", "training.reporting", "training.engine"},
}
ROOT_PROGRAMS = {"write_datasets", "train_imagenet"}
MOST_FILES = 10
UNSAFE_SERIALISERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(source: str) -> Iterator[str]:
    """Dotted names of everything that is imported anywhere in the file: modules, and what is taken from them."""
    package = source.split("/")[:-1]
    for node in ast.walk(TREES[source]):
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


IMPORTED = {source: set(imports(source)) for source in TREES}
LIBRARIES = {source: {name.partition(".")[0] for name in names} for source, names in IMPORTED.items()}
OURS = [source for source in TREES if package_of(source).startswith(("data_tools", "training"))]
MODULES = {module_of(source): source for source in OURS}


def test_package_imports_only_allowed_packages() -> None:
    assert {package_of(source) for source in OURS} == set(MAY_IMPORT), "every package has a rule"
    assert not {
        (source, name)
        for source in OURS
        for name in IMPORTED[source] & set(MODULES)
        if package_of(MODULES[name]) not in MAY_IMPORT[package_of(source)] | {package_of(source)}
    }
    assert not [source for source in OURS if LIBRARIES[source] & ROOT_PROGRAMS]


def test_no_import_cycle() -> None:
    """Neither between packages nor between modules; CycleError names them."""
    TopologicalSorter(MAY_IMPORT).prepare()
    modules = {name for name, source in MODULES.items() if not source.endswith("__init__.py")}
    TopologicalSorter({name: IMPORTED[MODULES[name]] & modules - {name} for name in MODULES}).prepare()


def test_folder_has_at_most_ten_files() -> None:
    files: dict[str, list[str]] = {}
    for path in (path for package in MAY_IMPORT for path in (ROOT / package.replace(".", "/")).iterdir()):
        if path.is_file() and path.name != "__init__.py" and path.suffix != ".so":
            files.setdefault(path.parent.name, []).append(path.name)
    assert not {folder: names for folder, names in files.items() if len(names) > MOST_FILES}


def test_only_the_loader_imports_ffcv() -> None:
    assert {package_of(source) for source in OURS if "ffcv" in LIBRARIES[source]} == {"training.loader"}


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


def test_no_code_is_run_from_data() -> None:
    assert not {source: found for source in TREES if (found := LIBRARIES[source] & UNSAFE_SERIALISERS)}
    assert not [
        f"{s}:{node.lineno}" for s, tree in TREES.items() for node in ast.walk(tree) if runs_code_from_data(node)
    ]


CODE = ("eval(x)", "exec(x)", "builtins.eval(x)", "torch.load(x)", "torch.load(x, weights_only=False)")
CODE += ("np.load(x, allow_pickle=True)", "os.system(x)", "subprocess.run(x, shell=True)")
DATA = ("torch.load(x, weights_only=True)", "np.load(x)", "subprocess.run(x)", "model.eval()", "ast.literal_eval(x)")
DATA += ("re.compile(x)",)


def test_runs_code_from_data_finds_such_calls() -> None:
    assert {text for text in CODE + DATA if any(map(runs_code_from_data, ast.walk(ast.parse(text))))} == set(CODE)
