"""Batches on a GPU: the same as on the CPU, and copied beside the computation."""

from pathlib import Path

import pytest
import torch

from training.loader.loaders import TrainLoader, ValLoader

pytestmark = pytest.mark.gpu


def test_batches_on_the_gpu_equal_those_on_the_cpu(betons: Path, device: torch.device) -> None:
    options = {"px": 128, "batch": 8, "min_scale": 0.08, "seed": 0, "workers": 2}
    path = betons / "train_160.beton"
    with (
        TrainLoader(path, device=torch.device("cpu"), **options) as host,
        TrainLoader(path, device=device, **options) as gpu,
    ):
        for epoch in range(5):  # often enough that pinned memory is used again
            for (a, b), (x, y) in zip(host.epoch(epoch), gpu.epoch(epoch), strict=True):
                assert x.device == device and x.dtype == torch.uint8
                assert x.is_contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(x.cpu(), a, rtol=0, atol=0)
                torch.testing.assert_close(y.cpu(), b, rtol=0, atol=0)


def test_batch_is_not_overwritten_while_the_gpu_is_behind(betons: Path, device: torch.device) -> None:
    """The device is kept busy, so that copies run ahead of a computation that has not begun."""
    options = {"px": 128, "batch": 8, "rectangular": False, "workers": 2}
    path = betons / "val_160.beton"
    with (
        ValLoader(path, device=torch.device("cpu"), **options) as host,
        ValLoader(path, device=device, **options) as gpu,
    ):
        expected = [int(images.sum()) for images, _ in host] * 20
        side = 4096 if device.type == "cuda" else 8
        load, sums = torch.randn(side, side, device=device), []
        for _ in range(20):
            for images, _ in gpu:
                for _ in range(5):
                    load = (load @ load).clamp(-1, 1)
                sums.append(images.long().sum())
        assert [int(each) for each in sums] == expected
