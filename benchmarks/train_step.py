"""Compare training steps with the eager loops of torchvision's references and ffcv-imagenet.

    python benchmarks/train_step.py [--betons DIR] [--variants NAME ...] [--json FILE]

Measures synthetic images on the device first (training steps alone), at 128, 224 and 288 px with titan8's batches or at
96 px with aiacc8's; with ``--betons`` also the whole path, from DIR's betons through the loader. All contenders of a
case run in turn, several rounds in one process; figures are medians over the rounds, ratios are taken round by round.
``--variants`` compares other ways to compute our step with ours, without the other loops. Without a GPU it runs on the
CPU, on a smaller network and smaller batches, and says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn
from torch._inductor import config as inductor_config

from data_tools.common.gpus import peak_tflops
from data_tools.common.resources import usable_cores
from training.config.train_config import Arch, Model, Train
from training.engine.metrics import MetricSums
from training.engine.step import MEAN, STD
from training.engine.synthetic_benchmark import CLASSES, SyntheticRun, synchronise
from training.engine.throughput import StepClock, forward_flops
from training.loader.loaders import TrainLoader

SIZES = {96: ("160", 256, 0.08), 128: ("160", 512, 0.08), 224: ("320", 224, 0.087), 288: ("full", 128, 0.5)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What differs from our step: its options, those of Inductor, or how stem and BatchNorms are computed."""

    train: Train = field(default_factory=Train)
    stem_blocks: bool | Literal["auto"] = "auto"
    fused_batch_norm: bool | Literal["auto"] = "auto"
    inductor: dict[str, Any] = field(default_factory=dict)


# What they gain on a GPU is in benchmarks/results/gpu.md.
VARIANTS = {
    "eager": Variant(train=Train(compile="off")),
    "cuda_graphs": Variant(train=Train(compile="reduce-overhead")),
    "max_autotune": Variant(train=Train(compile="max-autotune")),
    "fp16": Variant(train=Train(amp="fp16")),
    "no_stem_blocks": Variant(stem_blocks=False),
    "own_norm": Variant(fused_batch_norm=True),
    "own_norm_graphs": Variant(train=Train(compile="reduce-overhead"), fused_batch_norm=True),
    "own_norm_fp16": Variant(train=Train(amp="fp16"), fused_batch_norm=True),
    "combo_kernels": Variant(inductor={"combo_kernels": True, "combo_kernels_pointwise_only": True}),
    "cooperative_reductions": Variant(inductor={"triton.cooperative_reductions": True}),
    "conv_1x1_as_mm": Variant(inductor={"conv_1x1_as_mm": True}),
}


class Reference:
    """The step of the reference programs: eager, fp16 autocast, GradScaler, SGD; float images.

    ``channels_last`` is how ffcv-imagenet runs it, contiguous how torchvision's references do.
    """

    def __init__(self, arch: str, px: int, batch: int, device: torch.device, channels_last: bool) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device = device
        self.half = device.type == "cuda"
        self.model = getattr(torchvision.models, arch)(num_classes=CLASSES).to(device).to(memory_format=self.layout)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half)
        self.loss = nn.CrossEntropyLoss()
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
        images = torch.randint(0, 256, (batch, 3, px, px), device=device)
        # Both normalise images in the loader, so that is not part of the step.
        images = ((images - mean) / std).to(torch.float16 if self.half and channels_last else torch.float32)
        self.images = images.contiguous(memory_format=self.layout)
        self.labels = torch.randint(0, CLASSES, (batch,), device=device)
        self.model.train()

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half):
            loss = self.loss(self.model(self.images), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return time.perf_counter() - began


def whole_path(engine: SyntheticRun, loader: TrainLoader, steps: int) -> Iterator[tuple[float, float]]:
    """Yield (seconds, seconds that the device waited for images) of ``steps`` steps on the loader's batches, again and
    again."""
    device = engine.images.device
    sums = MetricSums(device)
    epoch = 0
    while True:
        seconds = starved = 0.0
        done = 0
        while done < steps:
            with loader.epoch(epoch) as batches:
                epoch += 1
                images, labels = next(batches)  # the pipeline's start does not count
                engine.step(images, labels % CLASSES, 1e-3, sums)
                synchronise(device)
                clock, asked = StepClock(device), time.perf_counter()
                for images, labels in batches:
                    clock.wait(asked)
                    engine.step(images, labels % CLASSES, 1e-3, sums)
                    clock.lap()
                    done += 1
                    asked = time.perf_counter()
                synchronise(device)
                seconds += clock.elapsed()
                starved += clock.starved()
        yield seconds / done * steps, starved / done * steps


def measure_case(
    px: int, arch: Arch, batch: int, options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    set_name, _, min_scale = SIZES[px]
    variants = {name: VARIANTS[name] for name in options.variants}
    contenders: dict[str, Callable[[], None]] = {}
    for name, variant in variants.items():
        with inductor_config.patch(variant.inductor):
            net = Model(arch=arch, stem_blocks=variant.stem_blocks, fused_batch_norm=variant.fused_batch_norm)
            contenders[name] = SyntheticRun(net, variant.train, px, batch, device)
    engine = contenders["ours"] = SyntheticRun(Model(arch=arch), Train(), px, batch, device)
    if not variants:
        contenders["ffcv_imagenet"] = Reference(arch, px, batch, device, channels_last=True)
        contenders["torchvision"] = Reference(arch, px, batch, device, channels_last=False)
    if options.warm_up:
        return []
    paths: Iterator[tuple[float, float]] | None = None
    if options.betons is not None:
        loader = TrainLoader(
            options.betons / f"train_{set_name}.beton",
            px=px,
            batch=batch,
            min_scale=min_scale,
            seed=0,
            workers=usable_cores(),
            device=device,
        )
        if loader.batches < 2:
            raise SystemExit(f"{loader.beton.path}: fewer than two batches of {batch}")
        paths = whole_path(engine, loader, options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    waits: list[float] = []
    for number in range(options.rounds + 1):
        for name, step in contenders.items():
            # Making one drops the code of those before, so the warm-up loads it from the cache; with CUDA graphs it
            # takes three steps.
            with inductor_config.patch(variants.get(name, Variant()).inductor):
                seconds[name].append(timed(step, options.steps if number else 3, device))
        if paths is not None:
            taken, waited = next(paths)
            seconds.setdefault("ours_whole_path", []).append(taken)
            waits.append(100 * waited / taken)
    rounds = {name: times[1:] for name, times in seconds.items()}  # the first round warms up
    return rows(px, arch, batch, options.steps, rounds, waits[1:], device)


def rows(
    px: int, arch: str, batch: int, steps: int, rounds: dict[str, list[float]], waits: list[float], device: torch.device
) -> list[dict[str, Any]]:
    flops = 3 * forward_flops(Model(arch=arch), CLASSES, px)
    peak = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    table = []
    for name, seconds in rounds.items():
        rate = steps * batch / statistics.median(seconds)
        against_ours = name == "ours_whole_path" or name in VARIANTS
        references = [each for each in ("ffcv_imagenet", "torchvision") if each in rounds]
        baselines = ["ours"] if against_ours else references if name == "ours" and references else [""]
        for baseline in baselines:
            other = rounds.get(baseline, seconds)
            ratio = statistics.median(b / a for a, b in zip(seconds, other, strict=True))
            table.append(
                {
                    "case": f"{px}",
                    "name": name,
                    "images_per_s": round(rate, 1),
                    "baseline": baseline,
                    "ratio": round(ratio, 3),
                    "cores": usable_cores(),
                    "batch": batch,
                    "tflops": round(rate * flops / 1e12, 2),
                    "mfu_percent": round(100 * rate * flops / 1e12 / peak, 1) if peak else None,
                    "data_wait_percent": round(statistics.median(waits), 2) if name == "ours_whole_path" else None,
                }
            )
    return table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--betons", type=Path, help="folder with train_160, train_320 and train_full betons")
    parser.add_argument("--px", type=int, nargs="+", choices=list(SIZES), default=[128, 224, 288])
    parser.add_argument("--batch", type=int, help="images of a step, in place of titan8's on a GPU and 16 on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to measure, after one to warm up [5]")
    parser.add_argument("--steps", type=int, help="steps of each contender per round [20 on a GPU, 2 on a CPU]")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=[], help="variants to compare with our step"
    )
    parser.add_argument(
        "--warm-up", action="store_true", help="only compile, to fill the caches on disk; measure nothing"
    )
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    options = parser.parse_args(argv)
    if any(count is not None and count < 1 for count in (options.batch, options.rounds, options.steps)):
        parser.error("--batch, --rounds, --steps: give 1 or more")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    options.steps = options.steps or (20 if on_gpu else 2)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    cpu = f"CPU only, {usable_cores()} cores: ResNet-18, batch {options.batch or 16}, fp32"
    where = torch.cuda.get_device_name(device) if on_gpu else cpu
    print(f"{where}; torch {torch.__version__}, Python {platform.python_version()}; medians of {options.rounds} rounds")
    print(f"{'px':>4} {'name':<22} {'img/s':>9} {'against':<14} {'ratio':>6} {'TFLOP/s':>8} {'MFU %':>6} {'wait %':>7}")
    table = []
    for px in options.px:
        arch: Arch = "resnet50" if on_gpu else "resnet18"
        batch = options.batch or (SIZES[px][1] if on_gpu else 16)
        for row in measure_case(px, arch, batch, options, device):
            table.append(row)
            mfu, wait = (("" if row[key] is None else row[key]) for key in ("mfu_percent", "data_wait_percent"))
            print(
                f"{px:>4} {row['name']:<22} {row['images_per_s']:>9} {row['baseline']:<14} {row['ratio']:>6} "
                f"{row['tflops']:>8} {mfu:>6} {wait:>7}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
