"""One step, against torch's own pieces."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from training.config.train_config import Train
from training.distributed.world import World
from training.engine import step as step_module
from training.engine.metrics import MetricSums
from training.engine.step import MEAN, STD, LossModule, Normalise, Predictor, TrainStep, compile_mode
from training.model.layers import UncountedBatchNorm
from training.model.optimizer import build
from training.model.resnet import parameter_groups

CPU = torch.device("cpu")
ALONE = World(rank=0, ranks=1, local_rank=0, local_ranks=1, device=CPU)


def tiny() -> nn.Module:
    convolution = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))


def test_normalise_by_hand() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) / 255 for v in (MEAN, STD))
    expected = (images / 255 - mean) / std
    assert torch.allclose(Normalise(torch.float32, CPU)(images), expected, atol=1e-5)
    half = Normalise(torch.float16, CPU)(images)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), expected, atol=4e-3)


def test_normalise_keeps_channels_last() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert Normalise(torch.float32, CPU)(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_step_equals_plain_sgd(smoothing: float) -> None:
    torch.manual_seed(1)
    ours = tiny()
    theirs = copy.deepcopy(ours)
    images, labels = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 5])
    options = Train()
    groups = parameter_groups(ours, 1e-2, decay_norm=False, decay_bias=True)
    loss_module = LossModule(Predictor(ours, torch.float32, CPU), smoothing)
    step = TrainStep(loss_module, torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True), options)
    norm, rest = list(theirs[1].parameters()), [*theirs[0].parameters(), *theirs[5].parameters()]
    reference = torch.optim.SGD(
        [{"params": rest, "weight_decay": 1e-2}, {"params": norm, "weight_decay": 0.0}], lr=0.5, momentum=0.9
    )
    sums = MetricSums(CPU)
    for _ in range(3):
        step(images, labels, 0.5, sums)
        reference.zero_grad()
        logits = theirs(Normalise(torch.float32, CPU)(images))
        nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing).backward()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    assert sums.scores(ALONE).images == 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_are_clipped_after_the_loss_scale_is_taken_out(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    ours = tiny()
    theirs = copy.deepcopy(ours)
    images, labels = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 5])
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0, fused=True)
    step = TrainStep(LossModule(Predictor(ours, dtype, CPU), 0.0), optimizer, Train(clip_norm=0.1))
    step(images, labels, 0.5, MetricSums(CPU))
    nn.functional.cross_entropy(theirs(Normalise(torch.float32, CPU)(images)), labels).backward()
    assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.1) > 0.2  # before
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert other.grad is not None
        assert torch.allclose(mine, other - 0.5 * other.grad, atol=1e-6 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_step_whose_gradients_overflow_is_skipped_with_decoupled_decay_and_clipping(clip_norm: float | None) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    options = Train(decay_decoupled=True, weight_decay=0.1, clip_norm=clip_norm)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), build(net, options, highest_lr=0.1), options)
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    step(images, labels, 0.1, MetricSums(CPU))
    before = copy.deepcopy(net.state_dict())
    step.forward = lambda images, labels: (net(images.float()).sum() * float("inf"), net(images.float()))
    step(images, labels, 0.1, MetricSums(CPU))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert int(step.bad_steps) == 1


def test_momentum_of_each_step_is_that_of_the_schedule() -> None:
    torch.manual_seed(1)
    ours = tiny()
    theirs = copy.deepcopy(ours)
    images, labels = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 5])
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0, momentum=0.96, nesterov=True, fused=True)
    step = TrainStep(LossModule(Predictor(ours, torch.float32, CPU), 0.0), optimizer, Train())
    buffers = [torch.zeros_like(parameter) for parameter in theirs.parameters()]
    for momentum in (0.96, 0.9, 0.93):
        step(images, labels, 0.1, MetricSums(CPU), momentum=momentum)
        theirs.zero_grad()
        nn.functional.cross_entropy(theirs(Normalise(torch.float32, CPU)(images)), labels).backward()
        for parameter, buffer in zip(theirs.parameters(), buffers, strict=True):
            assert parameter.grad is not None
            buffer.mul_(momentum).add_(parameter.grad)
            parameter.data -= 0.1 * (parameter.grad + momentum * buffer)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_fp16_with_a_static_scale_trains_like_fp32() -> None:
    torch.manual_seed(1)
    nets = [tiny()]
    nets.append(copy.deepcopy(nets[0]))
    images, labels = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8), torch.arange(8) % 6
    for net, dtype in zip(nets, (torch.float32, torch.float16), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        step = TrainStep(LossModule(Predictor(net, dtype, CPU), 0.0), optimizer, Train(loss_scale=1024))
        for _ in range(4):
            step(images, labels, 0.1, MetricSums(CPU))
    for full, short in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(full, short, atol=3e-2)


def test_static_loss_scale_stays_and_a_step_with_inf_is_skipped() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, fused=True)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), optimizer, Train(loss_scale=1024))
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    step(images, labels, 0.1, MetricSums(CPU))
    assert step.scaler.get_scale() == 1024.0
    moved = copy.deepcopy(net.state_dict())
    assert any(not torch.equal(before[key], moved[key]) for key in before)
    step.forward = lambda images, labels: (net(images.float()).sum() * float("inf"), net(images.float()))
    step(images, labels, 0.1, MetricSums(CPU))
    assert step.scaler.get_scale() == 1024.0
    assert all(torch.equal(moved[key], value) for key, value in net.state_dict().items())


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
    torch.manual_seed(1)
    nets = [tiny()]
    nets.append(copy.deepcopy(nets[0]))
    images, labels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    for net, overflows in zip(nets, (True, False), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, nesterov=nesterov, fused=True)
        step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), optimizer, Train())
        forward = step.forward
        if overflows:
            step.forward = lambda images, labels, net=net: (net(images.float()).sum() * float("inf"), torch.zeros(4, 6))
            net.eval()  # keep its statistics
            step(images, labels, 0.1, MetricSums(CPU))
            net.train()
            step.forward = forward
        for _ in range(3):
            step(images, labels, 0.1, MetricSums(CPU))
    for skipped, plain in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(skipped, plain)
        assert torch.isfinite(plain).all()


def test_overflow_in_the_forward_pass_leaves_every_buffer_as_it_was() -> None:
    net = tiny()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), optimizer, Train())
    images, labels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    step(images, labels, 0.1, MetricSums(CPU))
    before = copy.deepcopy(net.state_dict())
    predict, forward = step.loss_module.predict, step.forward
    step.forward = lambda images, labels: forward(images * float("inf"), labels)
    step(predict.normalise(images), labels, 0.1, MetricSums(CPU))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert int(step.bad_steps) == 1
    step.forward = forward
    step(images, labels, 0.1, MetricSums(CPU))
    assert not all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_batches_are_counted_as_torch_does_but_for_skipped_steps(accumulation_steps: int) -> None:
    theirs = tiny()
    ours = copy.deepcopy(theirs)
    ours[1] = UncountedBatchNorm(4)
    images, labels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    for net in (ours, theirs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
        loss_module = LossModule(Predictor(net, torch.float16, CPU), 0.0)
        step = TrainStep(loss_module, optimizer, Train(), accumulation_steps=accumulation_steps)
        step.prepare(8, 4, CPU)
        step(images, labels, 0.1, MetricSums(CPU))
        step(loss_module.predict.normalise(images) * float("inf"), labels, 0.1, MetricSums(CPU))
    assert int(ours[1].num_batches_tracked) == accumulation_steps
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


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
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    step = TrainStep(LossModule(Predictor(net, torch.float16, CPU), 0.0), optimizer, Train(compile=mode))
    images, labels = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8), torch.arange(4)
    for _ in range(2):  # so that there are momentum and statistics
        step(images, labels, 0.1, MetricSums(CPU))
    step.bad_steps.fill_(3)
    before = copy.deepcopy([net.state_dict(), optimizer.state_dict(), step.scaler.state_dict()])
    found.clear()
    step.prepare(12, 4, CPU)
    assert found == [(4, 3, 12, 12)] * runs
    assert compiled == ([] if mode == "off" else [mode])
    after = [net.state_dict(), optimizer.state_dict(), step.scaler.state_dict()]
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
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    train = TrainStep(LossModule(Predictor(net, torch.float32, CPU), 0.0), optimizer, Train(compile="default"))
    train.prepare(12, 4, CPU)
    assert done == ["code", "run"]
    done.clear()
    on_gpu = step_module.free_cached_memory
    monkeypatch.setattr(step_module, "free_cached_memory", lambda device: on_gpu(torch.device("cuda")))
    train.prepare(12, 4, CPU)
    assert done == ["code", "GPU", "pinned", "run"]
