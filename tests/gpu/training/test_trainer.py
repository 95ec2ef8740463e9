"""Runs on a GPU that are stopped and continued, and the processes' own step over NCCL."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import (
    BATCHES,
    TrainingProcess,
    assert_same_result,
    batches_done,
    train,
    training_arguments,
)

from training.config.datasets import read_datasets
from training.config.run_config import from_argv
from training.distributed.world import World
from training.engine.metrics import MetricSums
from training.engine.state import TrainState

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(recipe, folder, f"--dist.device={device.type}", "--train.compile=off")
    return folder


@pytest.mark.parametrize("after", [3, 12])
def test_run_stopped_by_sigterm_continues_to_the_same_bits(
    after: int, recipe: Path, undisturbed: Path, device: torch.device, tmp_path: Path
) -> None:
    """The recipe has run.deterministic, averaged weights and MixUp."""
    options = (f"--dist.device={device.type}", "--train.compile=off")
    process = TrainingProcess(recipe, tmp_path, "--run.checkpoint_minutes=0", *options)
    process.wait_for_batches(after)
    process.signal(signal.SIGTERM)
    assert "the same command continues" in process.finish(75)[1]
    assert after <= batches_done(tmp_path) < BATCHES
    TrainingProcess(recipe, tmp_path, *options).finish()
    assert_same_result(tmp_path, undisturbed)


@pytest.mark.parametrize("mode", ["off", "default"])
def test_step_of_one_of_several_processes_is_that_of_a_single_one(
    mode: str, betons: Path, device: torch.device, tmp_path: Path
) -> None:
    """A process group of one, over NCCL; the step is wrapped in DistributedDataParallel as for two."""
    recipe = write_recipe(tmp_path / "r.yaml", ONE_EPOCH, data={"dir": str(betons)}, train={"mixup": None})
    config = from_argv(training_arguments(recipe, tmp_path, f"--train.compile={mode}"))
    datasets = read_datasets(config.data.dir, config.schedule.betons())
    backend = "nccl" if device.type == "cuda" else "gloo"
    found = []
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        for ranks in (1, 2):
            world = World(rank=0, ranks=ranks, local_rank=0, local_ranks=ranks, device=device)
            state = TrainState(config, datasets, world)
            found.append(weights_after_two_steps(state))
    finally:
        dist.destroy_process_group()
    for single, several in zip(*found, strict=True):
        torch.testing.assert_close(several, single, rtol=1e-3, atol=1e-5)


def weights_after_two_steps(state: TrainState) -> list[torch.Tensor]:
    device, source = state.world.device, torch.Generator().manual_seed(0)
    state.step.prepare(64, 8, device)
    for key in range(2):
        images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=source)
        labels = torch.randint(0, 4, (8,), generator=source)
        state.step(
            images.to(device, memory_format=torch.channels_last), labels.to(device), 0.01, MetricSums(device), key=key
        )
    return [weight.detach().cpu() for weight in state.model.parameters()]
