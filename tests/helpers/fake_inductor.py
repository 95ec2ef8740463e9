"""What Inductor makes for a CUDA device that is not there: its code is counted, and its kernels go through ptxas.

On top of `fake_cuda`, with properties of a card for Inductor and a driver for Triton that knows its target alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton.runtime
from torch._dynamo import device_interface
from torch._inductor import config as inductor_config
from torch._inductor import graph as inductor_graph
from torch._inductor.ir import MultiOutput
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.hints import DeviceProperties
from torch.utils._triton import has_triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver
from triton.compiler import CompiledKernel

from helpers.fake_cuda import fake_cuda


@dataclass(frozen=True, slots=True)
class Card:
    """What Inductor and Triton ask about a card; from NVIDIA's data sheets."""

    name: str
    capability: tuple[int, int]
    processors: int
    l2_bytes: int
    shared_bytes: int  # that a block can have
    threads: int = 2048  # of a processor


CARDS = {
    75: Card("Tesla T4", (7, 5), 40, 4 << 20, 65536, 1024),
    80: Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 40 << 20, 166912),
    90: Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 50 << 20, 232448),
    100: Card("NVIDIA B200", (10, 0), 148, 126 << 20, 232448),
}


@dataclass(slots=True)
class Generated:
    """The code of the graphs that were compiled, forward and backward: kernel launches, and the bytes that they read
    and write, counting a tensor once for each kernel that uses it."""

    triton_launches: int = 0
    library_launches: int = 0  # cuDNN, cuBLAS and torch's own
    bytes_accessed: int = 0
    graphs: int = 0
    assembled: set[str] = field(default_factory=set)  # kernels that went through ptxas


class NotRun(Exception):
    """The code is there; it would run now."""


@contextlib.contextmanager
def fake_inductor(architecture: int, *, assemble: bool = False) -> Iterator[tuple[torch.device, Generated]]:
    """A block in which torch.compile makes code for the card of ``architecture`` (90 for an H100), forward and
    backward, and raises NotRun where it would run it. With ``assemble``, every Triton kernel goes through ptxas."""
    card, found = CARDS[architecture], Generated()
    with contextlib.ExitStack() as stack:
        for answer in (DeviceProperties.create.__func__, has_triton):  # they remember what there was before
            answer.cache_clear()
            stack.callback(answer.cache_clear)
        for target, name, answer in _answers(card, architecture, found, assemble):
            stack.enter_context(mock.patch.object(target, name, answer))
        stack.enter_context(
            mock.patch.dict(device_interface.caching_worker_device_properties, {"cuda": [_asked(card)]})
        )
        stack.enter_context(mock.patch.dict(device_interface.caching_worker_current_devices, {"cuda": 0}))
        # The folding of constants makes scalars on the card.
        quick = {"compile_threads": 1, "joint_graph_constant_folding": False, "force_disable_caches": True}
        stack.enter_context(inductor_config.patch(quick))
        active = triton.runtime.driver._active
        stack.callback(triton.runtime.driver.set_active, active)
        triton.runtime.driver.set_active(_driver(card, architecture))
        yield stack.enter_context(fake_cuda(card.capability)), found


def _asked(card: Card) -> Any:
    major, minor = card.capability
    return SimpleNamespace(
        name=card.name,
        major=major,
        minor=minor,
        multi_processor_count=card.processors,
        L2_cache_size=card.l2_bytes,
        total_memory=80 << 30,
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=card.threads,
        max_threads_per_block=1024,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=card.shared_bytes,
        shared_memory_per_multiprocessor=card.shared_bytes + 1024,
        is_integrated=0,
        is_multi_gpu_board=0,
        gcnArchName="",
    )


def _answers(card: Card, architecture: int, found: Generated, assemble: bool) -> Iterator[tuple[Any, str, Any]]:
    """Attributes to be exchanged: (object, name, value)."""
    for name, answer in {
        "get_device_properties": lambda *_, **__: _asked(card),
        "get_device_capability": lambda *_, **__: card.capability,
        "get_device_name": lambda *_: card.name,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
    }.items():
        yield torch.cuda, name, answer
    for name, answer in {
        "get_device_properties": lambda *_, **__: _asked(card),
        "get_compute_capability": lambda *_, **__: architecture,
        "get_raw_stream": lambda *_: 0,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "synchronize": lambda *_: None,
    }.items():
        yield device_interface.CudaInterface, name, staticmethod(answer)
    yield triton_helpers, "set_driver_to_gpu", lambda: None
    codegen = inductor_graph.GraphLowering.codegen

    def counted(graph: Any) -> Any:
        out = codegen(graph)
        _count(out[0].value, found)
        found.bytes_accessed += sum(map(_bytes_accessed, graph.scheduler.nodes))
        return out

    yield inductor_graph.GraphLowering, "codegen", counted

    def precompile(kernel: Any, *_: Any, **__: Any) -> None:
        if assemble:
            made = kernel._precompile_config(kernel.configs[0]).kernel
            binary = made.asm["cubin"] if isinstance(made, CompiledKernel) else made.cubin_raw
            # An ELF file, with the architecture in a byte of its flags.
            assert binary.startswith(b"\x7fELF") and architecture in binary[48:52], kernel.fn.__name__
            found.assembled.add(kernel.fn.__name__)

    yield triton_heuristics.CachingAutotuner, "precompile", precompile

    def stop(*_: Any) -> None:
        raise NotRun

    yield CompiledFxGraph, "__call__", stop


def _count(code: str, found: Generated) -> None:
    """Count the launches in the code of a graph."""
    calls = re.sub(r"async_compile\.triton\('\w+', '''.*?'''", "", code, flags=re.DOTALL)
    found.graphs += 1
    found.triton_launches += len(re.findall(r"^\s+\w+\.run\(", calls, re.MULTILINE))
    found.library_launches += len(re.findall(r"extern_kernels\.\w+\(|torch\.ops\.aten\.[\w.]+\(", calls))


def _bytes_accessed(node: Any) -> int:
    """What a kernel reads and writes. Inductor does not count the results of those that have several, such as a
    convolution's gradients."""
    several = isinstance(node.node, MultiOutput)
    return (
        int(node.node.get_numel()) * node.node.get_dtype().itemsize if several else node.get_read_write_buffers_sizes()
    )


def _driver(card: Card, architecture: int) -> Any:
    limits = {"max_shared_mem": card.shared_bytes, "multiprocessor_count": card.processors}

    class Driver(CudaDriver):  # type: ignore[misc]
        def __init__(self) -> None:
            self.utils = SimpleNamespace(
                get_device_properties=lambda _: limits | {"warpSize": 32, "max_num_regs": 65536}
            )
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda _: 0
            self.set_current_device = lambda _: None
            self.get_device_capability = lambda _=0: card.capability

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", architecture, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", 0)

    return Driver()
