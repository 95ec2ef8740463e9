"""One step, against torch's own pieces."""

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError

from data_tools.common.errors import UserError
from data_tools.common.options import OptionError
from training.config.train_config import Train
from training.engine import step as step_module
from training.engine.compilation import compile_mode, reporting_damaged_cache
from training.engine.metrics import MetricSums
from training.engine.step import (
    MEAN,
    STD,
    LossModule,
    Normalise,
    Predictor,
    TrainStep,
)
from training.model.layers import UncountedBatchNorm
from training.model.optimizer import build

CPU = torch.device("cpu")


def tiny() -> nn.Module:
    convolution = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))


def two_alike() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    net = tiny()
    return net, copy.deepcopy(net)


def batch(samples: int = 4, px: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (samples, 3, px, px), dtype=torch.uint8), torch.arange(samples) % 6


def step_of(
    net: nn.Module, dtype: torch.dtype = torch.float32, options: Train | None = None, **sgd: Any
) -> tuple[TrainStep, Callable[..., torch.Tensor]]:
    """A step, and how to call it: with a batch and a rate."""
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.0, "momentum": 0.9, "fused": True} | sgd)
    step = TrainStep(LossModule(Predictor(net, dtype, CPU), 0.0), optimizer, options or Train())
    return step, lambda *batch, lr=0.1, **more: step(*batch, lr, MetricSums(CPU), **more)


def overflow(step: TrainStep, net: nn.Module) -> None:
    """From now on, the gradients of this step are infinite."""
    step.forward = lambda images, labels: (net(images.float()).sum() * float("inf"), torch.zeros(len(labels), 6))


def assert_close(ours: nn.Module, theirs: nn.Module, atol: float) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=atol)


def loss_of(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(net(Normalise(torch.float32, CPU)(images)), labels)


def test_normalise_by_hand() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) / 255 for v in (MEAN, STD))
    expected = (images / 255 - mean) / std
    assert torch.allclose(Normalise(torch.float32, CPU)(images), expected, atol=1e-5)
    half = Normalise(torch.float16, CPU)(images)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), expected, atol=4e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_are_clipped_after_the_loss_scale_is_taken_out(dtype: torch.dtype) -> None:
    ours, theirs = two_alike()
    images, labels = batch(5)
    _, train = step_of(ours, dtype, Train(clip_norm=0.1), momentum=0)
    train(images, labels, lr=0.5)
    loss_of(theirs, images, labels).backward()
    assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.1) > 0.2  # before
    torch.optim.SGD(theirs.parameters(), lr=0.5).step()
    assert_close(ours, theirs, 1e-6 if dtype == torch.float32 else 1e-3)


def test_momentum_of_each_step_is_that_of_the_schedule() -> None:
    ours, theirs = two_alike()
    images, labels = batch(5)
    _, train = step_of(ours, nesterov=True)
    buffers = [torch.zeros_like(parameter) for parameter in theirs.parameters()]
    for momentum in (0.96, 0.9, 0.93):
        train(images, labels, momentum=momentum)
        theirs.zero_grad()
        loss_of(theirs, images, labels).backward()
        for parameter, buffer in zip(theirs.parameters(), buffers, strict=True):
            assert parameter.grad is not None
            buffer.mul_(momentum).add_(parameter.grad)
            parameter.data -= 0.1 * (parameter.grad + momentum * buffer)
    assert_close(ours, theirs, 1e-5)


def test_fp16_with_a_static_scale_trains_like_fp32() -> None:
    full, half = two_alike()
    images, labels = batch(8)
    for net, dtype in ((full, torch.float32), (half, torch.float16)):
        step, train = step_of(net, dtype, Train(loss_scale=1024))
        for _ in range(4):
            train(images, labels)
    assert_close(full, half, 3e-2)
    before = copy.deepcopy(half.state_dict())
    assert step.scaler.get_scale() == 1024.0
    overflow(step, half)
    train(images, labels)
    assert step.scaler.get_scale() == 1024.0
    assert all(torch.equal(before[key], value) for key, value in half.state_dict().items())


# ------------------------------------------------------------------------------------------ steps that are skipped
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_step_whose_gradients_overflow_is_skipped_with_decoupled_decay_and_clipping(clip_norm: float | None) -> None:
    net = tiny()
    options = Train(decay_decoupled=True, weight_decay=0.1, clip_norm=clip_norm)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), build(net, options, highest_lr=0.1), options)
    images, labels = batch(2)
    step(images, labels, 0.1, MetricSums(CPU))
    before = copy.deepcopy(net.state_dict())
    overflow(step, net)
    step(images, labels, 0.1, MetricSums(CPU))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert int(step.bad_steps) == 1


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """torch.empty gives NaN, not whatever was there."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


@pytest.mark.parametrize("nesterov", [False, True])
def test_overflow_in_the_first_step_is_as_if_that_step_had_not_been(nan_in_new_memory: None, nesterov: bool) -> None:
    skipped, plain = two_alike()
    images, labels = batch()
    for net in (skipped, plain):
        step, train = step_of(net, torch.float16, nesterov=nesterov)
        forward = step.forward
        if net is skipped:
            overflow(step, net.eval())  # keep its statistics
            train(images, labels)
            net.train()
            step.forward = forward
        for _ in range(3):
            train(images, labels)
    assert_close(skipped, plain, 0)
    assert all(torch.isfinite(parameter).all() for parameter in plain.parameters())


def test_overflow_in_the_forward_pass_leaves_every_buffer_as_it_was() -> None:
    net = tiny()
    step, train = step_of(net, torch.float16)
    images, labels = batch()
    train(images, labels)
    before = copy.deepcopy(net.state_dict())
    train(step.loss_module.predict.normalise(images) * float("inf"), labels)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert int(step.bad_steps) == 1
    train(images, labels)
    assert not all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_batches_are_counted_as_torch_does_but_for_skipped_steps(accumulation_steps: int) -> None:
    ours, theirs = two_alike()
    ours[1] = UncountedBatchNorm(4)
    images, labels = batch()
    for net in (ours, theirs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        loss_module = LossModule(Predictor(net, torch.float16, CPU), 0.0)
        step = TrainStep(loss_module, optimizer, Train(), accumulation_steps=accumulation_steps)
        step.prepare(8, 4, CPU)
        step(images, labels, 0.1, MetricSums(CPU))
        step(loss_module.predict.normalise(images) * float("inf"), labels, 0.1, MetricSums(CPU))
    assert int(ours[1].num_batches_tracked) == accumulation_steps
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------ compiling and preparing
@pytest.mark.parametrize(
    ("option", "device", "accumulation_steps", "mode"),
    [
        ("auto", "cpu", 1, None),
        ("auto", "cuda", 2, "default"),
        ("off", "cuda", 2, None),
        ("reduce-overhead", "cuda", 1, "reduce-overhead"),
        ("reduce-overhead", "cuda", 2, "default"),
        ("max-autotune", "cuda", 1, "max-autotune"),
        ("max-autotune", "cuda", 8, "max-autotune-no-cudagraphs"),
    ],
)
def test_accumulation_is_compiled_without_cuda_graphs(
    option: Any, device: str, accumulation_steps: int, mode: str | None
) -> None:
    assert compile_mode(Train(compile=option), device, accumulation_steps) == mode


@pytest.mark.parametrize(("accumulation_steps", "notes"), [(1, 0), (2, 1)])
def test_note_says_that_accumulation_has_no_cuda_graphs(
    accumulation_steps: int, notes: int, caplog: pytest.LogCaptureFixture
) -> None:
    net, options = tiny(), Train(compile="max-autotune")
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, fused=True)
    loss_module = LossModule(Predictor(net, torch.float32, CPU), 0.0)
    with caplog.at_level(logging.INFO, "training"):
        TrainStep(loss_module, optimizer, options, accumulation_steps=accumulation_steps)
    assert caplog.text.count("the step is compiled as max-autotune-no-cudagraphs") == notes


@pytest.mark.parametrize(("mode", "runs"), [("off", 1), ("default", 1), ("reduce-overhead", 3), ("max-autotune", 3)])
def test_prepare_runs_until_cuda_graphs_replay_and_changes_nothing(
    mode: str, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_nothing(module: nn.Module, dynamic: bool, mode: str) -> object:
        compiled.append(mode)
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    net, found = tiny(), []
    net.register_forward_pre_hook(lambda module, inputs: found.append(tuple(inputs[0].shape)))
    step, train = step_of(net, torch.float16, Train(compile=mode))
    for _ in range(2):  # so that there are momentum and statistics
        train(*batch(px=12))
    step.bad_steps.fill_(3)
    before = copy.deepcopy([net.state_dict(), step.optimizer.state_dict(), step.scaler.state_dict()])
    found.clear()
    step.prepare(12, 4, CPU)
    assert found == [(4, 3, 12, 12)] * runs
    assert compiled == ([] if mode == "off" else [mode])
    after = [net.state_dict(), step.optimizer.state_dict(), step.scaler.state_dict()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (int(step.bad_steps), int(step.longest_bad_run)) == (3, 0)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_memory_of_the_previous_phase_is_freed_once_its_code_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: done.append("code"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("GPU"))
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: done.append("pinned"))
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    net = tiny()
    net.register_forward_pre_hook(lambda module, inputs: done.append("run"))
    step, _ = step_of(net, options=Train(compile="default"))
    step.prepare(12, 4, CPU)
    assert done == ["code", "run"]
    done.clear()
    on_gpu = step_module.free_cached_memory
    monkeypatch.setattr(step_module, "free_cached_memory", lambda device: on_gpu(torch.device("cuda")))
    step.prepare(12, 4, CPU)
    assert done == ["code", "GPU", "pinned", "run"]


def test_error_about_a_file_of_inductors_cache_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    about_a_file = f"{tmp_path}/ab/c.so: file too short"
    for damaged in (BackendCompilerFailed(None, ImportError(about_a_file), None), OSError(about_a_file)):
        with pytest.raises(UserError, match=f"too short; remove the cache {tmp_path}"), reporting_damaged_cache():
            raise damaged
    others = CppCompileError(["g++", about_a_file], ""), RuntimeError("no GPU"), UserError("no beton")
    for other in others:
        with pytest.raises(type(other)) as raised, reporting_damaged_cache():
            raise other
        assert raised.value is other


def test_dropout_depends_only_on_the_key_of_the_batch() -> None:
    """So a run goes on as if it had not been stopped, on a GPU too, whose generators are not in the checkpoint."""
    torch.manual_seed(2)
    images, labels = batch(samples=64)
    losses = []
    for before, key in ((1, 5), (2, 5), (1, 6), (1, 1 << 70)):
        _, take = step_of(nn.Sequential(two_alike()[0], nn.Dropout(0.5)))
        torch.manual_seed(before)
        losses.append(take(images, labels, key=key).item())
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


class NotDeterministic(nn.Module):
    """As VGG's pooling on a GPU."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            "pool_cuda does not have a deterministic implementation, but you set 'torch.use_...'. You can"
        )


def test_network_that_cannot_be_deterministic_is_one_line() -> None:
    step, _ = step_of(nn.Sequential(tiny(), NotDeterministic()))
    with pytest.raises(OptionError) as error:
        step.prepare(32, 4, CPU)
    assert str(error.value).startswith("run.deterministic: torch's pool_cuda is not deterministic; give --run.")
    assert "\n" not in str(error.value)
