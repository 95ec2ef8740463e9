"""DDP of eight processes under torch.compile, seven of them made up by torch's fake process group."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.fake_ranks import fake_ranks, own_gradients
from helpers.fake_streams import needs_torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from training.config.train_config import Train
from training.distributed.world import World, copy_from_main, sum_over_ranks
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import resnet

needs_torch("2.15.0")  # for the fake process group, the reducer's hook and the counters

CPU = torch.device("cpu")
RANKS = 8


@pytest.fixture
def eight_processes() -> Iterator[World]:
    """This process as the first of eight."""
    with fake_ranks(RANKS):
        yield World(rank=0, ranks=RANKS, local_rank=0, local_ranks=RANKS, device=CPU)


@pytest.mark.slow
def test_every_phase_is_compiled_in_prepare_a_graph_for_each_bucket(
    eight_processes: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return aot_eager(graph, inputs)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile(module, dynamic=False, backend=counting))
    net = resnet.build("resnet50", 1000, init_bn0=True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
    loss_module = LossModule(Predictor(net, torch.bfloat16, CPU), 0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        parallel = DistributedDataParallel(loss_module, broadcast_buffers=False, gradient_as_bucket_view=True)
    parallel.register_comm_hook(None, own_gradients)
    step = TrainStep(loss_module, optimizer, Train(compile="default"), parallel=parallel)
    for px, batch in ((64, 4), (96, 2)):
        graphs.clear()
        counters.clear()
        step.prepare(px, batch, CPU)
        prepared, sums = len(graphs), MetricSums(CPU)
        images = torch.zeros(batch, px, px, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        for key in range(4):
            step(images, torch.zeros(batch, dtype=torch.int64), 0.1, sums, key=key)
        # 25.6 million fp32 parameters, in buckets of 25 MiB but for a first one of 1 MiB.
        assert prepared == 5
        assert len(graphs) == prepared
        # Dynamo breaks in DDP's own forward, around the module, but never within it.
        reasons = counters["graph_break"]
        assert all("class `Logger`" in reason or "_inside_ddp_forward" in reason for reason in reasons), reasons
    copy_from_main(net.buffers(), eight_processes)
    assert sum_over_ranks(sums.sums.clone(), eight_processes).shape == (4,)
