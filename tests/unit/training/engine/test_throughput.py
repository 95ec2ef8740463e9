"""Throughput of an epoch: bottleneck, FLOPs and step times, against numbers by hand."""

import dataclasses
import math
import time
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.recipes import config
from helpers.run_folders import rows

from data_tools.common import resources
from data_tools.common.options import OptionError
from training.config.datasets import Datasets
from training.config.train_config import Model
from training.distributed.world import World
from training.engine.throughput import StepClock, bottleneck, check_cpu_time, forward_flops


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "compute-bound"),
        ({"data_wait_percent": 20, "host_wait_percent": 21}, "loader-bound: 20 %"),
        ({"data_wait_percent": 20, "host_wait_percent": 1}, "copy-bound"),
        ({"host_wait_percent": 60}, "compute-bound"),
        ({"step_p99_ms": 2000}, "uneven: 1 step in 100 takes 5.0 times"),  # whose median is 400
    ],
)
def test_bottleneck_is_named(changes: dict[str, float], word: str) -> None:
    (row,) = rows([50])
    assert bottleneck(dataclasses.replace(row, **changes)).startswith(word)


def test_forward_flops_of_resnet() -> None:
    # torchvision documents 4.09 billion multiply-accumulates at 224 px and 1.81 for ResNet-18.
    assert forward_flops(Model(), 1000, 224) == pytest.approx(2 * 4.09e9, rel=0.01)
    assert forward_flops(Model(arch="resnet18"), 1000, 224) == pytest.approx(2 * 1.81e9, rel=0.01)
    assert forward_flops(Model(blurpool=True), 1000, 224) > forward_flops(Model(), 1000, 224)


def test_step_clock_measures_waiting_and_steps() -> None:
    clock = StepClock(torch.device("cpu"))
    for _ in range(4):
        asked = time.perf_counter()
        time.sleep(0.01)
        clock.wait(asked)
        time.sleep(0.01)
        clock.lap()
    speed = clock.speed(images=8, flops_per_image=1e9)
    assert speed.data_wait_percent == speed.host_wait_percent
    assert 10 < speed.data_wait_percent < 90
    assert speed.step_p50_ms >= 20
    assert speed.step_p99_ms >= speed.step_p50_ms
    assert speed.tflops == pytest.approx(3 * speed.images_per_s_per_gpu / 1000)
    assert math.isnan(speed.mfu_percent)
    unknown = StepClock(torch.device("cpu")).speed(images=0, flops_per_image=1e9)
    assert math.isnan(unknown.images_per_s_per_gpu) and math.isnan(unknown.data_wait_percent)


class FakeEvent:
    """An event that the GPU reaches at the time that was ``now`` when it was recorded; it has come to ``device_ms``."""

    now, device_ms, reads = 0.0, 0.0, 0
    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __init__(self, enable_timing: bool) -> None:
        self.alive.add(self)

    def record(self) -> None:
        self.at = FakeEvent.now

    def query(self) -> bool:
        return self.at <= FakeEvent.device_ms

    def synchronize(self) -> None:
        FakeEvent.device_ms = max(FakeEvent.device_ms, self.at)

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert self.query()
        assert end.query()
        FakeEvent.reads += 1
        return end.at - self.at


def test_step_clock_reads_each_event_of_a_gpu_once_and_lets_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: "T4" if "name" in name else 2**30)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = StepClock(torch.device("cuda"))
    steps, behind_ms, most = 1000, 40, 0
    for step in range(1, steps + 1):
        FakeEvent.now += 3  # the batch is late
        clock.wait(time.perf_counter())
        FakeEvent.now += 7 + 90 * (step == 500)
        clock.lap()
        FakeEvent.device_ms = FakeEvent.now - behind_ms
        if step % 20 == 0:
            assert clock.starved() == pytest.approx(3 * step / 1000)
        most = max(most, len(FakeEvent.alive))
    speed = clock.speed(images=8, flops_per_image=1e9)
    assert (speed.step_p50_ms, speed.step_p99_ms) == (10, 10)
    assert FakeEvent.reads == 2 * steps
    assert most < 30  # 4 steps and a few


@pytest.mark.parametrize(
    ("cores", "argv", "days"),
    [
        (2, [], 45),  # as 21.2 epochs at 224 px, of 1.28 million images x 3 x 8.2 GFLOP, at 0.17 TFLOP/s
        (2, ["--dist.device=cpu"], None),
        (2, ["--model.arch=resnet18"], 20),
        (64, [], None),
    ],
)
def test_recipe_for_gpus_is_refused_on_a_cpu_that_would_take_weeks(
    cores: int, argv: list[str], days: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    monkeypatch.setattr(Datasets, "images", lambda datasets, phase: 1_281_167)
    imagenet = Datasets(folder=Path(), manifests={}, classes=tuple(map(str, range(1000))))
    alone = World(device=torch.device("cpu"))
    if days is None:
        check_cpu_time(config("titan8", *argv), imagenet, alone)
        return
    message = (
        f"torch sees no GPU with CUDA_VISIBLE_DEVICES=9, and training on {cores} CPU cores takes about {days} days"
    )
    with pytest.raises(OptionError, match=message):
        check_cpu_time(config("titan8", *argv), imagenet, alone)
