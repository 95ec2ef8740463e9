"""What torch.compile makes for a CUDA device that is not there: the bytes that its kernels move, and ptxas on them.

Tensors on "cuda" are fake, with shape, type and strides but no values. What torch, Inductor and Triton ask a driver is
answered here, partly by changing a table of virtual functions, whose layout is that of one release: `MADE_FOR`.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton.knobs
import triton.runtime
from torch import nn
from torch._dynamo import convert_frame, device_interface
from torch._inductor import compile_fx
from torch._inductor import config as inductor_config
from torch._inductor import graph as inductor_graph
from torch._inductor.ir import MultiOutput, UserDefinedTritonKernel
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel, distributed
from torch.utils._triton import has_triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver
from triton.compiler import CompiledKernel

MADE_FOR = "2.15"
# Entries of at::CUDAHooksInterface's virtual functions that are to say yes. The first is asked by autograd, the others
# (cuDNN with dilation, depthwise, bfloat16 and bfloat16 RNN) decide which convolution a batch takes.
SAY_YES, ENTRIES = (4, 30, 31, 32, 33), 48
# Architecture: processors, bytes of L2, bytes of shared memory of a block, threads of a processor. Data sheets.
CARDS = {
    75: (40, 4 << 20, 65536, 1024),  # T4
    80: (108, 40 << 20, 166912, 2048),  # A100
    90: (132, 50 << 20, 232448, 2048),  # H100
    100: (148, 126 << 20, 232448, 2048),  # B200
}


@dataclass(slots=True)
class Generated:
    """The code of the graphs that were compiled, forward and backward."""

    graphs: int = 0
    recorded: int = 0  # those that would run as CUDA graphs: what they change lies where it did
    bytes_accessed: int = 0  # a tensor counts once for each kernel that reads or writes it
    # Triton's kernels, which all went through ptxas if asked for, and the bytes of each one's stack: spilled registers.
    assembled: dict[str, int] = field(default_factory=dict)


class NotRun(Exception):
    """The code is there; it would run now."""


@contextlib.contextmanager
def fake_inductor(architecture: int, assemble: bool = True) -> Iterator[tuple[torch.device, Generated]]:
    """A block in which torch.compile makes code for the card of ``architecture`` (90 for an H100), forward and
    backward, and raises NotRun where it would run it. ``assemble``: run ptxas on every kernel."""
    found = Generated()
    with contextlib.ExitStack() as stack:
        for answer in (DeviceProperties.create.__func__, has_triton):  # they remember what there was before
            answer.cache_clear()
            stack.callback(answer.cache_clear)
        compiler = _of_the_compiler(architecture, found, assemble)
        for target, name, answer in (*_of_the_driver(architecture), *compiler, *_of_several_processes()):
            stack.enter_context(mock.patch.object(target, name, answer))
        for table, answer in (
            (device_interface.caching_worker_device_properties, [_properties(architecture)]),
            (device_interface.caching_worker_current_devices, 0),
        ):
            stack.enter_context(mock.patch.dict(table, {"cuda": answer}))
        # The folding of constants makes scalars on the card.
        quick = {"compile_threads": 1, "joint_graph_constant_folding": False, "force_disable_caches": True}
        stack.enter_context(inductor_config.patch(quick))
        stack.callback(triton.runtime.driver.set_active, triton.runtime.driver._active)
        triton.runtime.driver.set_active(_driver(architecture))
        stack.enter_context(_hooks_say_yes())
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(FakeTensorMode())
        yield torch.device("cuda", 0), found


def _properties(architecture: int) -> Any:
    processors, l2_bytes, shared_bytes, threads = CARDS[architecture]
    return SimpleNamespace(
        name=f"sm_{architecture}",
        major=architecture // 10,
        minor=architecture % 10,
        multi_processor_count=processors,
        L2_cache_size=l2_bytes,
        total_memory=80 << 30,
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=threads,
        max_threads_per_block=1024,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=shared_bytes,
        shared_memory_per_multiprocessor=shared_bytes + 1024,
        is_integrated=0,
        is_multi_gpu_board=0,
        gcnArchName="",
    )


def _of_the_driver(architecture: int) -> Iterator[tuple[Any, str, Any]]:
    """Attributes to be exchanged, (object, name, value): what a driver would answer."""
    both = {
        "get_device_properties": lambda *_, **__: _properties(architecture),
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda *_, **__: True,
    }
    for name, answer in both.items():
        yield torch.cuda, name, answer
        yield device_interface.CudaInterface, name, staticmethod(answer)
    yield torch.cuda, "get_device_capability", lambda *_, **__: divmod(architecture, 10)
    yield torch.cuda, "get_device_name", lambda *_: f"sm_{architecture}"
    yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
    for name, answer in {
        "get_compute_capability": lambda *_, **__: architecture,
        "get_raw_stream": lambda *_: 0,
        "is_available": lambda: True,
        "synchronize": lambda *_: None,
    }.items():
        yield device_interface.CudaInterface, name, staticmethod(answer)
    yield triton_helpers, "set_driver_to_gpu", lambda: None
    yield nn.Module, "_apply", _replace_tensors


def _of_the_compiler(architecture: int, found: Generated, assemble: bool) -> Iterator[tuple[Any, str, Any]]:
    """The same of what counts and assembles, and ends before anything runs."""
    codegen = inductor_graph.GraphLowering.codegen

    def counted(graph: Any) -> Any:
        out = codegen(graph)
        found.graphs += 1
        found.bytes_accessed += sum(map(_bytes_accessed, graph.scheduler.nodes))
        return out

    def assembled(kernel: Any, *_: Any, **__: Any) -> None:
        made = kernel._precompile_config(kernel.configs[0]).kernel
        binary = made.asm["cubin"] if isinstance(made, CompiledKernel) else made.cubin_raw
        # An ELF file, with the architecture in a byte of its flags.
        assert binary.startswith(b"\x7fELF") and architecture in binary[48:52], kernel.fn.__name__
        name = kernel.fn.__name__
        found.assembled[name] = max(found.assembled.get(name, 0), 0 if "triton_" in name else _stack_bytes(binary))

    def record(model: Any, *, static_input_idxs: Iterable[int], mutated_input_idxs: Iterable[int], **_: Any) -> Any:
        found.recorded += set(mutated_input_idxs) <= set(static_input_idxs)
        return model

    def stop(*_: Any) -> None:
        raise NotRun

    yield inductor_graph.GraphLowering, "codegen", counted
    yield triton_heuristics.CachingAutotuner, "precompile", assembled if assemble else lambda *_, **__: None
    yield compile_fx, "cudagraphify", record
    yield CompiledFxGraph, "__call__", stop


def _of_several_processes() -> Iterator[tuple[Any, str, Any]]:
    """The same of DDP, whose reducer reads values and asks for CUDA events."""

    def without_reducer(self: DistributedDataParallel, *_: Any) -> None:
        self.reducer, self.logger = mock.Mock(), mock.Mock()

    compile = convert_frame.ConvertFrame.__call__

    def outside_the_fakes(*given: Any, **options: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():  # as dynamo does itself, but for DDP
            return compile(*given, **options)

    yield distributed, "_verify_param_shape_across_processes", lambda *_: None
    yield distributed, "_sync_module_states", lambda *_, **__: None
    yield DistributedDataParallel, "_ddp_init_helper", without_reducer
    yield convert_frame.ConvertFrame, "__call__", outside_the_fakes


def _stack_bytes(binary: bytes) -> int:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"STACK:(\d+)", shown)))


def _bytes_accessed(node: Any) -> int:
    """What a kernel reads and writes. Inductor does not count the results of those that have several, such as a
    convolution's gradients."""
    if isinstance(node.node, MultiOutput):
        return int(node.node.get_numel()) * node.node.get_dtype().itemsize
    if isinstance(node.node, UserDefinedTritonKernel):  # is given what it writes, too; each counts once
        names = {read.name for read in node.read_writes.reads}
        return sum(int(V.graph.get_numel(name)) * V.graph.get_dtype(name).itemsize for name in names)
    return int(node.get_read_write_buffers_sizes())


def _driver(architecture: int) -> Any:
    processors, _, shared_bytes, _ = CARDS[architecture]
    limits = {"max_shared_mem": shared_bytes, "multiprocessor_count": processors, "warpSize": 32, "max_num_regs": 65536}

    class Driver(CudaDriver):  # type: ignore[misc]
        def __init__(self) -> None:
            self.utils = SimpleNamespace(get_device_properties=lambda _: limits)
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda _: 0
            self.set_current_device = lambda _: None
            self.get_device_capability = lambda _=0: divmod(architecture, 10)

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", architecture, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", 0)

    return Driver()


@contextlib.contextmanager
def _hooks_say_yes() -> Iterator[None]:
    """Exchange the CUDA hooks' table of virtual functions for a copy with some entries changed."""
    torch.ones(1, requires_grad=True).sum().backward()  # the engine counts devices, of which there are none, only now
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    hooks = library._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    table = ctypes.c_uint64.from_address(hooks())
    original = table.value
    entries = ctypes.c_uint64 * (2 + ENTRIES)  # before the functions lie the offset to the object's top and its type
    copied = entries.from_buffer_copy(entries.from_address(original - 16))
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda this, index: True)
    for entry in SAY_YES:
        copied[2 + entry] = ctypes.cast(yes, ctypes.c_void_p).value or 0
    table.value = ctypes.addressof(copied) + 16
    try:
        yield
    finally:
        table.value = original


def _replace_tensors(self: nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply changes tensors in place, which fake ones do not allow."""
    for child in self.children():
        child._apply(fn)
    with torch.no_grad():
        for key, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[key] = nn.Parameter(fn(parameter), parameter.requires_grad)
        for key, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[key] = fn(buffer)
    return self
