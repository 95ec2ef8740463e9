"""Where an epoch's time went, and how well it used the hardware."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_tools.common.console import plural
from data_tools.common.gpus import peak_tflops
from data_tools.common.options import OptionError
from data_tools.common.resources import default_workers
from training.config.datasets import Datasets
from training.config.run_config import RunConfig
from training.config.train_config import Model
from training.distributed.world import World, on_cpu_for_want_of_gpus
from training.model import networks
from training.runlog.epoch_table import Speed

CPU_CORE_FLOPS = 0.085e12  # 0.17 TFLOP/s on two cores (benchmarks/results/train_step.txt)
MOST_CPU_DAYS = 7  # unless dist.device=cpu


class StepClock:
    """Times the steps of an epoch without waiting for the device: on a GPU, by events in its stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waited = 0.0
        self.marks: list[float] = []
        self._laps_ms: list[float] = []  # on a GPU: from a step's last kernel to that of the next
        self._starved_ms = 0.0
        self._unread: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # batch is there, step is done
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._read, self._ready = _mark(), _mark()  # the end of the last step that was read; the newest batch
        self.marks.append(time.perf_counter())

    def wait(self, since: float) -> None:
        """The host waited for a batch since ``since``, and has it now."""
        self.waited += time.perf_counter() - since
        if self.device.type == "cuda":
            self._ready = _mark()

    def lap(self) -> None:
        """The step on the batch that was waited for is queued."""
        self.marks.append(time.perf_counter())
        if self.device.type == "cuda":
            self._unread.append((self._ready, _mark()))
            self._read_finished()

    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.marks[0]

    def starved(self) -> float:
        """Seconds that the device waited for images since the clock was made. Synchronises with the device."""
        if self.device.type != "cuda":
            return self.waited
        if self._unread:
            self._unread[-1][1].synchronize()
        self._read_finished()
        return self._starved_ms / 1000

    def _read_finished(self) -> None:
        """Read the events of the steps that the device has done, each once, and let go of them."""
        while self._unread and self._unread[0][1].query():
            ready, done = self._unread.popleft()
            self._starved_ms += self._read.elapsed_time(ready)
            self._laps_ms.append(self._read.elapsed_time(done))
            self._read = done

    def speed(self, images: int, flops_per_image: float) -> Speed:
        """The speed of this process over ``images`` since the clock was made. Synchronises with the device."""
        starved_s = self.starved()
        on_gpu = self.device.type == "cuda"
        laps = self._laps_ms if on_gpu else [1000 * (b - a) for a, b in pairwise(self.marks)]
        seconds = self.elapsed() if images else math.nan  # without steps there is no speed
        tflops = 3 * flops_per_image * images / seconds / 1e12
        peak = peak_tflops(torch.cuda.get_device_name(self.device)) if on_gpu else None
        return Speed(
            images_per_s_per_gpu=images / seconds,
            data_wait_percent=100 * starved_s / seconds,
            host_wait_percent=100 * self.waited / seconds,
            step_p50_ms=_percentile(laps, 50),
            step_p99_ms=_percentile(laps, 99),
            gpu_memory_gib=torch.cuda.max_memory_allocated(self.device) / 2**30 if on_gpu else 0.0,
            tflops=tflops,
            mfu_percent=100 * tflops / peak if peak else float("nan"),
        )


def _percentile(values: list[float], percent: int) -> float:
    """nan without values: an epoch that is continued at its very end has no steps left."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else float("nan")


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def forward_flops(net: Model, classes: int, px: int) -> float:
    """Floating-point operations of one image's forward pass: two for each multiply-accumulate.

    A training step costs three times that: forward, and the gradients of inputs and of weights.
    """
    network = networks.without_weights(net, classes).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, px, px, device="meta"))
    return float(counter.get_total_flops())


def check_cpu_time(config: RunConfig, datasets: Datasets, world: World) -> None:
    """OptionError if ``dist.device=auto`` found no GPU and the job's cores would take more than MOST_CPU_DAYS."""
    if not (why := on_cpu_for_want_of_gpus(config.dist)):
        return
    cores, flops = default_workers(world.local_ranks) * world.ranks, 0.0
    for phase in config.schedule.phases:
        images = datasets.images(phase) * (phase.end - phase.start)
        flops += 3 * images * forward_flops(config.model, len(datasets.classes), phase.px)
    days = flops / (cores * CPU_CORE_FLOPS) / 86_400
    if days > MOST_CPU_DAYS:
        what = f"{why}, and training on {plural(cores, 'CPU core')} takes about {days:,.0f} days"
        raise OptionError(what, where="dist.device", remedy="check the driver, or give --dist.device=cpu")


@contextlib.contextmanager
def profiled(trace: Path | None, batches: int) -> Iterator[Callable[[], None]]:
    """Write a trace of ten steady steps (fewer in a short epoch) to ``trace``; None: no trace. The block must call the
    function that it gets after every step."""
    if trace is None or batches < 2:
        yield lambda: None
        return
    wait = min(5, max(0, batches - 11))
    phases = torch.profiler.schedule(wait=wait, warmup=1, active=min(10, batches - 1 - wait), repeat=1)
    with torch.profiler.profile(
        schedule=phases, on_trace_ready=lambda profile: profile.export_chrome_trace(str(trace)), profile_memory=True
    ) as profile:
        yield profile.step


def bottleneck(speed: Speed) -> str:
    """What limited the speed of a phase, and what to change."""
    if speed.data_wait_percent >= 5 and speed.host_wait_percent < 5:
        return (
            f"copy-bound: the GPU waits {speed.data_wait_percent:.0f} % of the time for images that the loader has "
            "ready; look for a slow PCIe link (nvidia-smi -q -d PCIE), or other traffic on it"
        )
    if speed.data_wait_percent >= 5:
        return (
            f"loader-bound: {speed.data_wait_percent:.0f} % of the time waiting for images; give the loader more cores "
            "(data.workers), keep the betons in RAM, or write them with a smaller cap or raw pixels"
        )
    if speed.step_p99_ms > 2 * speed.step_p50_ms:
        return (
            f"uneven: 1 step in 100 takes {speed.step_p99_ms / speed.step_p50_ms:.1f} times the median; look for other "
            "load on the machine, a slow disk, or (run.profile=true) where the long steps spend their time"
        )
    return (
        f"compute-bound: waiting for images {speed.data_wait_percent:.1f} % of the time; to go faster, try a larger "
        "batch, bf16 or fp16, or torch.compile"
    )
