"""What would make the host wait for a GPU in the code of a step, seen on the CPU, where the same code runs."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal", "is_nonzero"}
INDEXING = {"index", "index_put", "index_put_"}
COPIES = {"cpu", "cuda", "numpy", "tolist", "tensor", "as_tensor", "from_numpy"}
# torchvision's: random numbers are drawn and read on the host, and only there does one_hot check its labels.
ON_HOST = {"make_params", "_mixup_label"}
CONVOLUTIONS = {"convolution", "conv2d", "convolution_backward"}  # conv2d: in inference mode


class DeviceLog:
    """``waits``: where the host reads a value, or copies memory to or from the device. ``not_channels_last``: tensors
    of convolutions, forward or backward. ``mismatched``: parameters whose gradient or momentum lies otherwise in
    memory, which a fused optimizer would pair wrongly."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.not_channels_last: Counter[str] = Counter()
        self.mismatched: Counter[str] = Counter()

    def wait(self, what: str) -> None:
        stack = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
        if not any(frame.name in ON_HOST or "torch.randint(" in (frame.line or "") for frame in stack):
            ours = [frame for frame in stack if is_ours(frame.filename)][-1]
            self.waits[f"{what} at {Path(ours.filename).name}:{ours.lineno}"] += 1


def is_ours(filename: str) -> bool:
    return "site-packages" not in filename


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):
    """Every operation, also those within torch."""

    def __init__(self, log: DeviceLog) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # Indexing by a mask asks how many elements are chosen.
        masked = name in INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))
        if name in READS or masked:
            self.log.wait(name)
        out = func(*args, **(kwargs or {}))
        if name in CONVOLUTIONS:
            for tensor in _tensors((args, out)):
                if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
                    self.log.not_channels_last[f"{name} {tuple(tensor.shape)}"] += 1
        if name == "_fused_sgd_":
            params, grads, momenta = args[:3]
            for tensors in zip(params, grads, momenta or params, strict=True):
                strides = {tuple(s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1) for t in tensors}
                self.log.mismatched[str(tuple(tensors[0].shape))] += len(strides) - 1
        return out


class _Calls(TorchFunctionMode):
    """The project's own calls: on the CPU, a copy to the device is not an operation."""

    def __init__(self, log: DeviceLog) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        to_device = name == "to" and ("device" in kwargs or any(not isinstance(a, torch.dtype) for a in args[1:]))
        if (name in COPIES or to_device) and is_ours(sys._getframe(1).f_code.co_filename):
            self.log.wait(name)
        return func(*args, **kwargs)


@contextlib.contextmanager
def device_log() -> Iterator[DeviceLog]:
    """A block whose work is logged."""
    log = DeviceLog()
    with _Operations(log), _Calls(log):
        yield log
