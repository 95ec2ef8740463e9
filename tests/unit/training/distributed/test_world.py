"""The device of a process, and its share of the compile workers of a machine."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch._inductor import config as inductor_config

from data_tools.common import resources
from training.config.run_config import Dist
from training.distributed import world as world_module
from training.distributed.world import World, copy_from_main, world
from training.engine import build


def test_network_without_buffers_has_nothing_to_send() -> None:
    copy_from_main([], World(rank=0, ranks=2, local_rank=0, local_ranks=2, device=torch.device("cpu")))


@pytest.mark.parametrize(
    ("cores", "ranks", "chosen", "workers"),
    [(192, 8, None, 24), (16, 8, None, 2), (4, 8, None, 1), (192, 1, None, 32), (192, 8, "5", 7)],
)
def test_compile_workers_share_the_cores(
    cores: int, ranks: int, chosen: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", chosen)
    # 7: what torch took from the environment.
    with inductor_config.patch(compile_threads=7), world(Dist(device="cpu")):
        assert inductor_config.compile_threads == workers


@pytest.mark.parametrize(("gpus", "local_rank", "number"), [(1, 3, 0), (4, 3, 3)])
def test_process_has_the_same_gpu_everywhere_also_where_slurm_shows_it_only_its_own(
    gpus: int, local_rank: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    for name, value in {"RANK": local_rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"GPU-{device}"))
    monkeypatch.setattr(world_module, "meet", lambda *arguments: said.append(arguments[3]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **given: said.append(given["device_id"]))
    monkeypatch.setattr(dist, "new_group", lambda **given: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(build, "DistributedDataParallel", lambda module, **given: said.extend(given["device_ids"]))
    device = torch.device("cuda", number)
    with world(Dist()) as place:
        build._parallel(torch.nn.Identity(), place, static_graph=False)
    assert said == [device, f"GPU-{device}", device, device]


def test_training_on_the_cpu_for_want_of_a_gpu_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    caplog.set_level(logging.INFO)
    for device in ("auto", "cpu"):
        with world(Dist(device=device)) as place:
            assert place.device.type == "cpu"
    assert caplog.messages == ["on the CPU: torch sees no GPU with CUDA_VISIBLE_DEVICES=9"]
