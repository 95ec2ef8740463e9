"""Cards, and how fast they train a ResNet-50: published figures, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from data_tools.common.gpus import peak_tflops

RATED, RATED_PARAMETERS = "resnet50", 25_557_032  # the network of all rates below


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """What a training costs besides the images themselves: seconds per step, per epoch and for the first epoch with
    other images, and bytes of a parameter's gradient in the all-reduce, of all ``parameters``."""

    step_s: float
    epoch_s: float
    phase_s: float
    gradient_bytes: int
    parameters: int = RATED_PARAMETERS


# The engine of this project. A step: in tf_cnn_benchmarks, fp16, the time of batches of 64 to 512 is linear in the
# batch, with 8 ms (RTX 3090) and 3 ms (RTX 4090) at 0 images (server-gear.com, 2023). Loaders stay open between epochs;
# a phase compiles and tunes its shapes. These two are assumed, not measured. Weights, and so gradients, are fp32.
ENGINE = Software(step_s=0.005, epoch_s=1.0, phase_s=20.0, gradient_bytes=4)
# The published runs of the imagenet18 recipes: PyTorch 0.4 and 1.0, fp16 weights with fp32 copies, worker processes
# that start in every epoch. Read off the epochs in dawn-bench-entries: from 4 machines to 8 with the same batch per GPU
# (6 to 19 s of an epoch stay), from batches of 64 to 512, and a phase's first epoch beside its others (13 to 85 s).
IMAGENET18 = Software(step_s=0.02, epoch_s=8.0, phase_s=30.0, gradient_bytes=2)
# Compiled steps on an H200 take 2.79 to 2.84 ns a pixel, batches of 512 at 128 px, 224 at 224 and 128 at 288
# (benchmarks/results/gpu.md): hardly anything is left for the step itself.
COMPILED = replace(ENGINE, step_s=0.001)
BENCHMARK_BATCH = 256  # at which tabulated rates were taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """``image_s``: seconds of a training image on one card by px, without what ``software`` costs a step; other sizes
    are scaled by area, which convolutions are proportional to."""

    image_s: Mapping[int, float]
    source: str
    software: Software = ENGINE

    def seconds(self, px: int) -> float:
        """Seconds of a training image of ``px``."""
        nearest = min(self.image_s, key=lambda known: abs(known - px))
        return self.image_s[nearest] * (px / nearest) ** 2


def _rated(rate: float, source: str, software: Software = ENGINE) -> Card:
    """A card that trains ``rate`` images of 224 px a second, in batches of BENCHMARK_BATCH."""
    return Card(image_s={224: 1 / rate - software.step_s / BENCHMARK_BATCH}, source=source, software=software)


def _run(epochs: Mapping[int, tuple[float, int]], source: str) -> Card:
    """A card of which 8 trained ImageNet: by px, seconds of an epoch that is not its phase's first, and the batch."""
    image_s = {}
    for px, (seconds, batch) in epochs.items():
        steps = 1_281_167 // (8 * batch)
        image_s[px] = ((seconds - IMAGENET18.epoch_s) / steps - IMAGENET18.step_s) / batch
    return Card(image_s=image_s, source=source, software=IMAGENET18)


LAMBDA = "Lambda's benchmark, AMP, synthetic images"
RATES = {
    "titan-rtx": (646, LAMBDA),
    "v100": (833, LAMBDA),
    "a10": (638, LAMBDA),
    "a100": (2078, "NVIDIA's examples, AMP, DALI, one of 8 cards in a machine (one alone: 2,470)"),
    "rtx-3090": (905, LAMBDA),
    "rtx-4090": (1301, LAMBDA),
    "rtx-5090": (1301 * 1.44, "RTX 4090's by Lambda x 1.44, the mean over timm's networks (mtechresearch.tech)"),
    "rtx-6000-ada": (1146, LAMBDA),
}

MEASURED = {"h200": (7099, "this project's compiled step on one card, torch 2.11 (benchmarks/results/gpu.md)")}


def _scaled(name: str, base: str, *, gb_s: tuple[float, float]) -> Card:
    """A card without a published rate, from that of ``base``, by their memory bandwidths and dense fp16 peaks. A
    ResNet-50 is bound by either, so the smaller ratio counts."""
    tflops = peak_tflops(name), peak_tflops(base)
    assert tflops[0] is not None and tflops[1] is not None
    memory, peak = gb_s[0] / gb_s[1], tflops[0] / tflops[1]
    by = f"memory bandwidth, x {memory:.2f}" if memory <= peak else f"peak FLOPS, x {peak:.2f}"
    (rate, _), software = (MEASURED[base], COMPILED) if base in MEASURED else (RATES[base], ENGINE)
    return _rated(rate * min(memory, peak), f"scaled from {base} by {by}", software)


CARDS = {
    "titan8-run": _run(
        {128: (139.3, 512), 224: (408.6, 224), 288: (792.8, 128)},
        "the published titan8 run, 8 Titan RTX (Lambda, January 2019)",
    ),
    # The same schedule as titan8's, on one machine: nothing of it comes from the runs on several.
    "v100-run": _run(
        {128: (90.3, 512), 224: (253.0, 224), 288: (451.7, 128)},
        "setu_resnet50_azure_ndv2 of dawn-bench-entries, titan8's schedule on 8 V100 (2019)",
    ),
    **{name: _rated(*rated) for name, rated in RATES.items()},
    "a10g": _scaled("a10g", "a10", gb_s=(600, 600)),
    "l4": _scaled("l4", "rtx-4090", gb_s=(300, 1008)),
    "l40s": _scaled("l40s", "rtx-6000-ada", gb_s=(864, 960)),
    **{name: _rated(*measured, COMPILED) for name, measured in MEASURED.items()},
    "h100": _scaled("h100", "h200", gb_s=(3350, 4800)),
    "b200": _scaled("b200", "h200", gb_s=(8000, 4800)),
    "mi300x": _scaled("mi300x", "a100", gb_s=(5300, 2039)),
}
