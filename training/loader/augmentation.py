"""`data.augment`: augmentations by name, from FFCV on the host and from torchvision on the device."""

import contextlib
import ctypes
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import RLock
from typing import Any

import numba
import numpy as np
import torch
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.transforms import ModuleWrapper
from torch import nn
from torchvision.transforms import v2

from data_tools.common.options import OptionError
from data_tools.native.library import library
from training.config.augmentations import PLAIN, Augmentation
from training.loader.crops import RandomCrops
from training.loader.sample_order import GOLDEN

_compiling = RLock()  # FFCV's compiler has one switch for the process

# Published per image; torchvision's others are drawn once per batch, which is faster.
DRAWN_PER_IMAGE = (v2.AugMix, v2.AutoAugment, v2.RandAugment, v2.RandomErasing, v2.TrivialAugmentWide)


def build(
    augmentations: tuple[Augmentation, ...], rank: int = 0, ranks: int = 1
) -> tuple[list[Operation], list[nn.Module]]:
    """(Operations on the host, modules on the device), in order, for process ``rank`` of ``ranks``. OptionError names
    the one that cannot be made."""
    made = [_made(each) for each in augmentations]
    modules = [each for each in made if not isinstance(each, Operation)]
    return (
        [each for each in made if isinstance(each, Operation)],
        [EachImage(each, rank, ranks) if isinstance(each, DRAWN_PER_IMAGE) else each for each in modules],
    )


def check_list(given: Any, kind: type, where: str, remedy: str) -> list[Any]:
    """The augmentations that ``where`` was given, as a list. OptionError unless each is a ``kind``."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise OptionError(f"{_name_of(given)} is not a list", where=where, remedy=remedy)
    for number, each in enumerate(listed := [*given]):
        if not isinstance(each, kind):
            raise OptionError(f"{_name_of(each)} does not belong here", where=f"{where}[{number}]", remedy=remedy)
    return listed


def check_on_device(modules: Sequence[nn.Module], px: int, device: torch.device | str) -> None:
    """OptionError unless each module turns a batch of uint8 images of ``px`` into another."""
    images = torch.zeros((1, 3, px, px), dtype=torch.uint8, device=device)
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        for module in modules:
            try:
                changed = module(images)
            except Exception as error:  # of any type, as it is torchvision's
                raise _unfit(module, px, error) from None
            if not (torch.is_tensor(changed) and changed.shape == images.shape and changed.dtype == images.dtype):
                raise _unfit(module, px)


def _name_of(given: Any) -> str:
    return repr(given) if isinstance(given, (*PLAIN, type)) else type(given).__name__


def _unfit(augmentation: Operation | nn.Module, px: int, error: Exception | None = None) -> OptionError:
    kind = type(augmentation.module if isinstance(augmentation, EachImage) else augmentation).__name__
    what = f"{kind} does not turn one uint8 image into another of the same shape, here {px} px"
    return OptionError(f"{what} ({error})" if error and str(error) else what, where="data.augment")


class EachImage(nn.Module):
    """Applies ``module`` image by image, so that each draws its own random numbers; on a batch it would draw once.

    The images are every ``ranks``-th of a global batch, from ``rank`` on. All processes draw the seeds of the global
    batch, so an image is changed in the same way however many processes there are, and what comes next draws the same
    numbers in each.
    """

    def __init__(self, module: nn.Module, rank: int, ranks: int) -> None:
        super().__init__()
        self.module = module
        self.rank, self.ranks = rank, ranks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *seeds, after = torch.randint(1 << 62, (len(images) * self.ranks + 1,)).tolist()
        changed = []
        for image, seed in zip(images, seeds[self.rank :: self.ranks], strict=True):
            torch.manual_seed(seed)
            changed.append(self.module(image))
        torch.manual_seed(after)
        return torch.stack(changed)


def _made(augmentation: Augmentation) -> Any:
    package, _, name = augmentation.name.rpartition(".")
    kind = getattr(importlib.import_module(package), name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Operation | nn.Module)):
        raise OptionError(f"{package} has no {name}", where="data.augment")
    try:
        if kind is v2.RandomErasing and augmentation.arguments.get("value") == "random":
            raise ValueError(
                "normal random numbers are not uint8 pixels; give a number or [red, green, blue], 0 to 255"
            )
        return kind(**augmentation.arguments)
    except (TypeError, ValueError, AssertionError) as error:
        what = f"{augmentation.name} cannot be made with {augmentation.arguments} ({error})"
        raise OptionError(what, where="data.augment") from None


class KeyedAugmentation(Operation):
    """An Operation of `ffcv.transforms` on single images, whose randomness depends on (seed, epoch, sample, position in
    the list) alone.

    FFCV's Operations draw from numba's generators, one a thread, which no seed reaches. Here each image is seeded anew
    before the Operation sees it (4 us), so the result is the same for any number of threads, processes and any batch.
    """

    def __init__(self, operation: Operation, seed: int, position: int = 0) -> None:
        super().__init__()
        self._operation = operation
        self._rule = RandomCrops(px=1, seed=seed + position * GOLDEN).rule()

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; not while one is being loaded."""
        self._rule.epoch = epoch

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        random_state = np.random.get_state()
        try:
            state, memory = self._operation.declare_state_and_memory(previous_state)
            code = self._operation.generate_code()
            if isinstance(self._operation, ModuleWrapper) or getattr(code, "with_indices", False):
                raise ValueError("it works on batches")
            # Some Operations need no memory: they leave a byte of it alone, so that all are called in the same way.
            memory = memory or AllocationQuery((1,), np.dtype("u1"))
            # As Python, on one image: compiled, it would fail in the first epoch and not say why.
            images = np.zeros((1, *previous_state.shape), previous_state.dtype)
            changed = code(images, np.zeros((1, *memory.shape), memory.dtype))
        except Exception as error:  # of any type, as it is FFCV's
            raise _unfit(self._operation, previous_state.shape[0], error) from None
        finally:
            np.random.set_state(random_state)
        kept = [(each.shape, each.dtype, each.device) for each in (previous_state, state)]
        if kept[0] != kept[1] or not state.jit_mode or changed.shape != images.shape:
            raise _unfit(self._operation, previous_state.shape[0])
        return state, memory

    def generate_code(self) -> Callable[..., Any]:
        key, each = library().native_sample_key, Compiler.get_iterator()
        rule = ctypes.addressof(self._rule)
        apply = numba.njit(fastmath=True, nogil=True, error_model="numpy")(self._operation.generate_code())

        def augment(images, memory, indices):  # type: ignore[no-untyped-def]
            for i in each(len(indices)):
                np.random.seed(key(rule, indices[i]))
                images[i] = apply(images[i : i + 1], memory[i : i + 1])[0]
            return images

        # FFCV's way to ask for prange. Two loaders at once abort the process where numba has its workqueue layer.
        augment.is_parallel = numba.threading_layer() != "workqueue"  # type: ignore[attr-defined]
        augment.with_indices = True  # type: ignore[attr-defined]
        return augment


@contextlib.contextmanager
def ffcv_compiler(enabled: bool) -> Iterator[None]:
    """FFCV's compiler on or off. It leaves torch's threads alone: on a CPU a training that runs meanwhile would round
    otherwise."""

    def set_threads_of_augmentations(number: int) -> None:
        Compiler.num_threads = number
        numba.set_num_threads(number)

    with _compiling:
        set_num_threads = Compiler.set_num_threads
        Compiler.set_enabled(enabled)
        Compiler.set_num_threads = set_threads_of_augmentations
        try:
            yield
        finally:
            Compiler.set_num_threads = set_num_threads
            Compiler.set_enabled(True)
