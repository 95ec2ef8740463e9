"""The next phase's code, compiled in a process beside the training; the CPU is in a GPU's place."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.fake_ranks import fake_ranks, own_gradients
from helpers.processes import wait_until
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch.nn.parallel import DistributedDataParallel

from training.config.datasets import Datasets
from training.config.run_config import Model, RunConfig, Train
from training.config.schedule import Schedule
from training.distributed.world import World
from training.engine.compile_ahead import CompileAhead
from training.engine.state import TrainState, configure_torch

SPAWN = multiprocessing.get_context("spawn")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PHASE = {"epochs": [0, 1], "px": 32, "batch_per_gpu": 4, "data": 160}
PHASE["lr"] = [{"epochs": [0, 1], "from": 0.1, "to": 0.1}]
CONFIG = RunConfig(schedule=Schedule(phases=[PHASE]), model=Model(arch="resnet18"), train=Train(compile="default"))
DATASETS = Datasets(folder=Path("unused"), manifests={}, classes=tuple("abcdefghij"))
FIRST = CONFIG.schedule.phases[0]


def world(device: torch.device, ranks: int = 1) -> World:
    return World(rank=0, ranks=ranks, local_rank=0, local_ranks=ranks, device=device)


def without_network(mode: str | None, device: torch.device = CPU) -> Any:
    """As much of a state as decides whether to compile ahead."""
    step = SimpleNamespace(compile_mode=mode)
    return SimpleNamespace(step=step, world=world(device), config=CONFIG, datasets=DATASETS)


def give_free_memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(gib * 2**30), 80 * 2**30))


def _compile_ahead_and_prepare(ranks: int, told: Connection) -> None:
    configure_torch(CONFIG.run)
    with fake_ranks(ranks) if ranks > 1 else contextlib.nullcontext():
        state = TrainState(CONFIG, DATASETS, world(CPU, ranks))
        if isinstance(state.step.parallel, DistributedDataParallel):
            state.step.parallel.register_comm_hook(None, own_gradients)
        ahead = CompileAhead(state)
        ahead.begin(FIRST)
        assert ahead._process is not None
        ahead._process.join()
        outcome = ahead.end()
        state.step.prepare(FIRST.px, FIRST.batch_per_gpu, CPU)
    found = counters["inductor"]
    told.send((outcome, found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]))


# Forward and backward; DDP has them for each of the three buckets of ResNet-18's 45 MB.
@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "graphs"), [(1, 2), (8, 6)])
def test_phase_takes_its_code_from_the_cache_that_the_process_filled(
    ranks: int, graphs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    receiver, sender = SPAWN.Pipe(duplex=False)
    training = SPAWN.Process(target=_compile_ahead_and_prepare, args=(ranks, sender))
    training.start()
    sender.close()
    outcome, hits, misses = receiver.recv()
    training.join()
    assert outcome.startswith("was compiled ahead in ")
    assert (hits, misses) == (graphs, 0)


def test_failure_is_told_and_leaves_the_training_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    give_free_memory(monkeypatch, 8)
    ahead = CompileAhead(without_network("default", GPU))
    ahead.begin(FIRST)
    assert ahead._process is not None
    ahead._process.join()
    assert ahead.end().startswith("could not be compiled ahead (")
    assert ahead.end() == ""
    assert capfd.readouterr() == ("", "")


def test_process_that_is_not_done_is_ended() -> None:
    ahead = CompileAhead(without_network("default"))
    ahead.begin(FIRST)
    process = ahead._process
    assert process is not None
    assert ahead.end() == "was not fully compiled ahead"
    assert process.exitcode == -signal.SIGKILL


def status_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; "gone" without a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["gone"]


def _begin_and_wait(told: Connection) -> None:
    ahead = CompileAhead(without_network("default"))
    ahead.begin(FIRST)
    assert ahead._process is not None
    told.send(ahead._process.pid)
    time.sleep(600)


def test_process_ends_with_a_training_that_is_killed() -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    training = SPAWN.Process(target=_begin_and_wait, args=(sender,))
    training.start()
    pid = receiver.recv()
    wait_until(lambda: status_of(pid)[16] == str(min(os.nice(0) + 19, 19)))  # it has begun, and gives way
    os.kill(training.pid or 0, signal.SIGKILL)
    training.join()
    wait_until(lambda: status_of(pid)[0] in ("gone", "Z"))


@pytest.mark.parametrize(
    ("mode", "device", "free_gib", "caches"),
    [
        (None, CPU, 0, True),
        ("max-autotune", CPU, 0, True),
        ("max-autotune-no-cudagraphs", CPU, 0, True),
        ("default", GPU, 1.9, True),
        ("default", GPU, 8, False),
    ],
)
def test_nothing_is_begun_where_it_would_not_help_or_disturb(
    mode: str | None, device: torch.device, free_gib: float, caches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_free_memory(monkeypatch, free_gib)
    ahead = CompileAhead(without_network(mode, device))
    with inductor_config.patch(fx_graph_cache=caches):
        ahead.begin(FIRST)
    assert ahead._process is None
    assert ahead.end() == ""
