"""How a step is compiled: the mode of torch.compile, and Inductor's cache on disk."""

import contextlib
from collections.abc import Iterator

from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError
from torch._inductor.runtime.cache_dir_utils import cache_dir

from data_tools.common.errors import UserError
from training.config.train_config import Train

# Modes of torch.compile that use CUDA graphs, and the same without. A graph's gradients lie in memory that its next run
# writes again, so they cannot be accumulated over several runs.
WITHOUT_CUDA_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


def compile_mode(options: Train, device_type: str, accumulation_steps: int) -> str | None:
    """The mode for torch.compile, or None for an eager step. With accumulation it has no CUDA graphs."""
    if options.compile == "auto":
        return "default" if device_type == "cuda" else None
    if options.compile == "off":
        return None
    return options.compile if accumulation_steps == 1 else WITHOUT_CUDA_GRAPHS.get(options.compile, options.compile)


def cache_counts() -> tuple[int, int]:
    """Graphs that this process has found in Inductor's cache, and those that it has compiled."""
    counts = counters["inductor"]
    return counts["fxgraph_cache_hit"], counts["fxgraph_cache_miss"] + counts["fxgraph_cache_bypass"]


@contextlib.contextmanager
def reporting_damaged_cache() -> Iterator[None]:
    """UserError for an error about a file of Inductor's cache, unless it is the compiler's about the code."""
    try:
        yield
    except Exception as error:
        cause, folder = getattr(error, "inner_exception", error), cache_dir()
        if folder not in str(cause) or isinstance(cause, CppCompileError):
            raise
        remedy = f"remove the cache {folder}, or choose another with TORCHINDUCTOR_CACHE_DIR"
        raise UserError(f"torch.compile: {str(cause).splitlines()[0]}", remedy=remedy) from error
