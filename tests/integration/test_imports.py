"""What imports and `--help` load and start, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT

HEAVY = {"torch", "torchvision", "ffcv", "cv2", "numba", "matplotlib", "tensorboard", "onnx", "pyarrow", "wandb"}
LIGHT = ("common", "beton", "sources"), ("config", "runlog", "reporting")
PROGRAMS = [
    *("write_datasets.py", "train_imagenet.py", "scripts/render_recipe_docs.py"),
    *(
        f"-m {package}.{path.stem if path.stem != '__main__' else path.parent.name}"
        for package in ("data_tools", "training")
        for path in sorted((ROOT / package).glob("*.py")) + sorted((ROOT / package).glob("*/__main__.py"))
        if "__main__" in path.read_text()
    ),
]
# Reports what an import does besides defining names: a library opened, a process or a thread started.
WATCHED = """
import importlib, sys, threading
done = []
def watch(event, arguments):
    if event in ("ctypes.dlopen", "subprocess.Popen", "os.fork", "socket.__new__") and "data_tools" in str(arguments):
        done.append((event, str(arguments)))
sys.addaudithook(watch)
before = threading.active_count()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not done, done
assert threading.active_count() == before
print(*{name.partition(".")[0] for name in sys.modules})
"""


def modules(package: str, *folders: str) -> list[str]:
    """Dotted names of the modules below these folders of a package, or of all of it."""
    files = [f for folder in folders for f in (ROOT / package / folder).rglob("*.py")] or (ROOT / package).rglob("*.py")
    names = [f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for f in files]
    return sorted(name for name in names if not name.endswith("__main__"))


def loaded_by_importing(names: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_light_packages_load_nothing_heavy() -> None:
    names = modules("data_tools", *LIGHT[0]) + modules("training", *LIGHT[1])
    assert len(names) > 25
    assert not loaded_by_importing(names) & HEAVY


def test_importing_everything_opens_no_library_and_starts_nothing() -> None:
    loaded_by_importing(modules("data_tools") + modules("training"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_loads_nothing_heavy(program: str) -> None:
    code = (
        "import runpy, sys; name = sys.argv.pop(1); sys.path.insert(0, ''); sys.argv[:] = [name, '--help']\n"
        "try: (runpy.run_path(name, run_name='__main__') if name.endswith('.py') else\n"
        "      runpy.run_module(name, run_name='__main__', alter_sys=True))\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    name = program.removeprefix("-m ")
    done = subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert not set(done.stderr.split()) & HEAVY
