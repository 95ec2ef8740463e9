"""Archives, betons, the tiny recipe and the run that it gives."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.images import make_sorted_tar, spec_for
from helpers.recipes import write_recipe

from data_tools.common.runtime import let_waiting_threads_sleep

# Tests run side by side; threads that spin at each other's barriers make two trainings ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
let_waiting_threads_sleep(os.environ)
# What a shell starts in the background ignores Ctrl-C, and under nohup SIGHUP, and so do its children; some tests send
# them. A program gets the default of a signal that has a handler, while the tests themselves survive a closed terminal.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, lambda number, frame: None),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def unchanged_torch() -> Iterator[None]:
    """A test leaves torch's settings as they were: a training changes some, and a stock FFCV Loader the number of
    threads, by which sums round."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    filled, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture(scope="session")
def sorted_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes, 40 training and 12 validation pictures."""
    return make_sorted_tar(tmp_path_factory.mktemp("source") / "sorted.tar")


@pytest.fixture(scope="session")
def betons(tmp_path_factory: pytest.TempPathFactory, sorted_tar: Path) -> Path:
    """A folder with {train,val}_{160,320,full}.beton of `sorted_tar`; not to be changed."""
    from data_tools.convert.converter import convert

    out = tmp_path_factory.mktemp("betons")
    convert(spec_for(sorted_tar, out))
    return out


@pytest.fixture(scope="session")
def recipe(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe: three epochs in two phases."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", data={"dir": str(betons)})


@pytest.fixture(scope="session")
def finished_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `recipe` that nothing interrupted, with its output in stdout.txt; not to be changed.

    In a process of its own, so that it does not depend on what other tests have left behind in this one.
    """
    from helpers.training_runs import TrainingProcess

    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    TrainingProcess(recipe, run_dir).finish()
    return run_dir
