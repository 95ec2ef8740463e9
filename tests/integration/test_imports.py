"""What imports and `--help` load and start, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

from helpers import ROOT

HEAVY = {"torch", "torchvision", "ffcv", "cv2", "numba", "matplotlib", "tensorboard", "pyarrow", "scipy"}
LIGHT = [f"data_tools/{name}" for name in ("common", "beton", "sources")]
LIGHT += [f"training/{name}" for name in ("config", "estimation", "runlog", "reporting")]
PROGRAMS = ["write_datasets.py", "train_imagenet.py", "scripts/render_recipe_docs.py"]
PROGRAMS += [
    f"{package}.{path.stem if path.stem != '__main__' else path.parent.name}"
    for package in ("data_tools", "training")
    for path in sorted((ROOT / package).glob("*.py")) + sorted((ROOT / package).glob("*/__main__.py"))
    if "__main__" in path.read_text()
]
# Fails where an import does more than define names: where it opens a library, or starts a process or a thread.
IMPORT = """
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
# A line for each program: its name, then what has been loaded so far.
HELP = """
import contextlib, io, runpy, sys
sys.path.insert(0, "")
for name in sys.argv[1:]:
    sys.argv[:] = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            if name.endswith(".py"):
                runpy.run_path(name, run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, (name, end.code)
    assert "usage:" in out.getvalue(), name
    print(name, *{module.partition(".")[0] for module in sys.modules})
"""


def modules(folders: list[str]) -> list[str]:
    """Dotted names of the modules below these folders."""
    files = [file.relative_to(ROOT).with_suffix("") for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__")


def run(code: str, arguments: list[str]) -> list[set[str]]:
    """The words of each line that the code prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_light_packages_load_nothing_heavy() -> None:
    names = modules(LIGHT)
    assert len(names) > 25
    (loaded,) = run(IMPORT, names)
    assert not loaded & HEAVY


def test_importing_everything_opens_no_library_and_starts_nothing() -> None:
    run(IMPORT, modules(["data_tools", "training"]))


def test_help_loads_nothing_heavy() -> None:
    loaded = run(HELP, PROGRAMS)
    assert len(loaded) == len(PROGRAMS)
    assert not [words & HEAVY | words & set(PROGRAMS) for words in loaded if words & HEAVY]
