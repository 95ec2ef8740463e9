"""DDP of eight processes under torch.compile, seven of them made up by torch's fake process group."""

import warnings
from typing import Any

import pytest
import torch
from helpers.fake_ranks import fake_ranks, own_gradients
from torch._dynamo.backends.debugging import aot_eager
from torch.nn.parallel import DistributedDataParallel

from training.config.train_config import Train
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import resnet

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_phase_is_compiled_in_prepare_a_graph_for_each_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile(module, dynamic=False, backend=counting))
    net = resnet.build("resnet50", 1000, init_bn0=True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
    loss_module = LossModule(Predictor(net, torch.bfloat16, CPU), 0.0)
    with fake_ranks(8), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        parallel = DistributedDataParallel(loss_module, broadcast_buffers=False, gradient_as_bucket_view=True)
        parallel.register_comm_hook(None, own_gradients)
        step = TrainStep(loss_module, optimizer, Train(compile="default"), parallel=parallel)
        for px, batch in ((64, 4), (96, 2)):
            graphs.clear()
            step.prepare(px, batch, CPU)
            # 25.6 million fp32 parameters, in buckets of 25 MiB but for a first one of 1 MiB.
            assert len(graphs) == 5
            images = torch.zeros(batch, px, px, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            for key in range(4):
                step(images, torch.zeros(batch, dtype=torch.int64), 0.1, MetricSums(CPU), key=key)
            assert len(graphs) == 5
