"""A CUDA device without a GPU: fake tensors on "cuda", which have shape, type and strides but no values.

What PyTorch asks the driver for is answered here, partly by changing a table of virtual functions whose layout is that
of one release: `MADE_FOR`.
"""

from __future__ import annotations

import contextlib
import ctypes
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import v2

from helpers import ROOT

MADE_FOR = "2.15"
# Entries of at::CUDAHooksInterface's virtual functions that are to say yes. The first is asked by autograd, the others
# (cuDNN with dilation, depthwise, bfloat16 and bfloat16 RNN) decide which convolution a batch takes.
HAS_PRIMARY_CONTEXT, CUDNN_SUPPORTS, ENTRIES = 4, (30, 31, 32, 33), 48
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal", "is_nonzero"}
INDEXING = {"index", "index_put", "index_put_"}
CONVOLUTIONS = {"convolution", "conv2d", "convolution_backward"}  # conv2d: in inference mode


def skip_or_fail_with_another_torch() -> None:
    """Skip where torch is not the release this is made for; fail if uv.lock has that one, since nothing tests then."""
    running = ".".join(torch.__version__.split(".")[:2])
    if running == MADE_FOR:
        return
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = next(package["version"] for package in packages if package["name"] == "torch")
    message = f"helpers/fake_cuda.py is made for torch {MADE_FOR}, this is {torch.__version__}"
    if locked.startswith(f"{running}."):
        pytest.fail(f"{message}, which uv.lock has: check the entries of the table of virtual functions")
    pytest.skip(message)


class DeviceLog(TorchDispatchMode):
    """What the host asked of the device, counted: ``waits`` by kind and line of code, ``launches`` by operation, and
    tensors of a convolution, forward or backward, that are ``not_channels_last``."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.not_channels_last: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        inputs = _tensors((args, kwargs))
        # Indexing by a mask asks how many elements are chosen.
        masked = name in INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))
        if (name in READS or masked) and any(t.device.type == "cuda" for t in inputs):
            self._wait(name)
        out = func(*args, **kwargs)
        outputs = _tensors(out)
        if name in ("copy_", "_to_copy"):
            source, target = inputs[-1 if name == "copy_" else 0].device.type, outputs[0].device.type
            # Without pinned memory, the host waits for a copy to the device even if that is non_blocking.
            if source != target and not (kwargs.get("non_blocking", len(args) > 2 and args[2]) and source == "cuda"):
                self._wait(f"{name} from {source} to {target}")
        if not (func.is_view or name.startswith(("empty", "new_empty", "detach", "device"))) and any(
            t.device.type == "cuda" for t in inputs + outputs
        ):
            self.launches[name] += 1
        if name in CONVOLUTIONS:
            for tensor in inputs + outputs:
                if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
                    self.not_channels_last[f"{name} {tuple(tensor.shape)}"] += 1
        return out

    def _wait(self, what: str) -> None:
        outside = [f for f in traceback.extract_stack() if "/torch/utils/" not in f.filename and f.filename != __file__]
        self.waits[f"{what} at {Path(outside[-1].filename).name}:{outside[-1].lineno}"] += 1


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[torch.device]:
    """A block in which torch.device("cuda", 0), which is yielded, holds fake tensors, as do all others."""
    answers: dict[str, Any] = {
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.get_device_capability": lambda *_: capability,
        "torch.nn.Module._apply": _replace_tensors,
        "torch.randint": _drawn_on_the_host(torch.randint),
        **{
            f"torchvision.transforms.v2.{kind.__name__}.{method}": _real(getattr(kind, method))
            for kind in (v2.MixUp, v2.CutMix)
            for method in ("__init__", "make_params")
        },
    }
    with contextlib.ExitStack() as stack:
        for what, answer in answers.items():
            stack.enter_context(mock.patch(what, answer))
        # The moving average copies the network, whose tensors refer to the mode.
        stack.enter_context(mock.patch.object(FakeTensorMode, "__deepcopy__", lambda self, _: self, create=True))
        library = stack.enter_context(torch.library._scoped_library("aten", "IMPL", "Meta"))
        library.impl("_fused_sgd_", _check_fused_sgd)
        stack.enter_context(_hooks_say_yes())
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(FakeTensorMode())
        yield torch.device("cuda", 0)


@contextlib.contextmanager
def _hooks_say_yes() -> Iterator[None]:
    """Exchange the CUDA hooks' table of virtual functions for a copy with some entries changed."""
    torch.ones(1, requires_grad=True).sum().backward()  # the engine counts devices, of which there are none, only now
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    hooks = library._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    table = ctypes.c_uint64.from_address(hooks())
    original = table.value
    # Before the functions lie the offset to the object's top and its type.
    copied = (ctypes.c_uint64 * (2 + ENTRIES)).from_buffer_copy(
        (ctypes.c_uint64 * (2 + ENTRIES)).from_address(original - 16)
    )
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda this, index: True)
    for entry in (HAS_PRIMARY_CONTEXT, *CUDNN_SUPPORTS):
        copied[2 + entry] = ctypes.cast(yes, ctypes.c_void_p).value or 0
    table.value = ctypes.addressof(copied) + 16
    try:
        yield
    finally:
        table.value = original


def _check_fused_sgd(params: Any, grads: Any, buffers: Any, **_: Any) -> None:
    """What the kernel needs: element i of each list belongs to element i of the others in memory."""
    for tensors in zip(params, grads, buffers or params, strict=True):
        strides = {tuple(s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1) for t in tensors}
        assert len(strides) == 1, f"fused SGD would pair wrong elements: {strides} of {tuple(tensors[0].shape)}"
        assert len({t.dtype for t in tensors}) == 1


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


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` on real tensors: the host draws numbers and reads them at once."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return run


def _drawn_on_the_host(randint: Callable[..., Any]) -> Callable[..., Any]:
    @_real
    def draw(*args: Any, **kwargs: Any) -> Any:
        drawn = randint(*args, **kwargs)
        return drawn if drawn.dim() else drawn.item()

    return draw
