"""Throughput of an epoch: bottleneck, FLOPs and step times, against numbers by hand."""

import dataclasses
import math
import time

import pytest
import torch

from training.engine.throughput import StepClock, bottleneck, forward_flops, peak_tflops
from training.runlog.epoch_table import Speed

COMPUTE_BOUND = Speed(
    images_per_s_per_gpu=1000,
    data_wait_percent=0.1,
    host_wait_percent=0.1,
    step_p50_ms=100,
    step_p99_ms=110,
    gpu_memory_gib=8,
    tflops=24,
    mfu_percent=30,
)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "compute-bound"),
        ({"data_wait_percent": 20, "host_wait_percent": 21}, "loader-bound: 20 %"),
        ({"data_wait_percent": 20, "host_wait_percent": 1}, "copy-bound"),
        ({"host_wait_percent": 60}, "compute-bound"),
        ({"step_p99_ms": 500}, "uneven: 1 step in 100 takes 5.0 times"),
    ],
)
def test_bottleneck_is_named(changes: dict[str, float], word: str) -> None:
    assert bottleneck(dataclasses.replace(COMPUTE_BOUND, **changes)).startswith(word)


def test_forward_flops_of_resnet() -> None:
    # torchvision documents 4.09 billion multiply-accumulates at 224 px and 1.81 for ResNet-18.
    assert forward_flops("resnet50", 1000, 224) == pytest.approx(2 * 4.09e9, rel=0.01)
    assert forward_flops("resnet18", 1000, 224) == pytest.approx(2 * 1.81e9, rel=0.01)
    assert forward_flops("resnet50", 1000, 224, blurpool=True) > forward_flops("resnet50", 1000, 224)


def test_peak_tflops_is_of_the_most_specific_name() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("NVIDIA L40S") == 362
    assert peak_tflops("Tesla T4") == 65
    assert peak_tflops("GeForce GTX 1080 Ti") is None


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
