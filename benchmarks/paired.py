"""Compare pixels, pipeline and engine with plain torchvision's, each alone, in pairs of small trainings.

    python benchmarks/paired.py [--source TAR] [--pairs N] [--arms A,B] [--results FILE]

equivalence.py compares whole trainings, whose seeds differ in everything. Here both sides of a pair begin with the same
weights and differ in one thing (QUESTIONS):

    pixels     the same order, boxes and flips: our loader's pixels or PIL's, which are cut out of the originals
    pipeline   each side's own order, boxes and flips as well
    engine     the same batches of our loader: this project's step or the plain loop
    cap        as pixels, but stored at 50 px, which is to crops of 40 px what the set 160 is to crops of 128
    filter     that set, made with Lanczos or by area

A training takes half a minute to a minute of one core. Results are added to a file, one line of JSON each, and an
interrupted benchmark continues from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import plain_training
import torch
from equivalence import ROOT, Result, beton_digests, convert, prepare, read_results, setting_of
from PIL import Image
from scipy import stats  # type: ignore[import-untyped]
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional, v2

from training.config.schedule import Phase, Schedule
from training.config.train_config import Train
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.loader.loaders import TrainLoader, ValLoader
from training.model import optimizer

CPU = torch.device("cpu")
# Ends at a training loss of 1.05 and 56 % top-1, equivalence.yaml at 1.74 and 39 %. 30 epochs: 0.79 and 60 %.
EPOCHS, PX, BATCH, LR, DECAY, MIN_SCALE = 20, 40, 32, 0.1, 2e-3, 0.5
RAMPS = [{"epochs": [0, 5], "from": 0.02, "to": LR}, {"epochs": [5, EPOCHS], "from": LR, "to": 0.0}]
PHASE = {"epochs": [0, EPOCHS], "px": PX, "batch_per_gpu": BATCH, "data": "160", "min_scale": MIN_SCALE, "lr": RAMPS}
TRAIN = Train(weight_decay=DECAY, momentum=0.9, label_smoothing=0.0)
QUESTIONS = {
    "pixels": ("ours", "pil"),
    "pipeline": ("ours", "torchvision"),
    "engine": ("step", "ours"),
    "cap": ("area50", "pil"),
    "filter": ("lanczos50", "area50"),
}
Batch = tuple[torch.Tensor, torch.Tensor]
Batches = list[Batch]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared/data/clothing-sorted.tar"
    parser.add_argument("--source", type=Path, default=shared, help="a sorted tar of photographs")
    parser.add_argument("--pairs", type=int, default=16, help="number of seeds [16]")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"what to train [{','.join(ARMS)}]")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/paired.jsonl", help="file to append scores to")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    options = parser.parse_args(argv)
    if not options.source.is_file():
        parser.error(f"{options.source}: no such file; give --source a sorted tar of photographs")
    if unknown := set(options.arms.split(",")) - ARMS.keys():
        parser.error(f"--arms: {', '.join(sorted(unknown))}: give some of {', '.join(ARMS)}")
    options.recipe, options.device = Path(__file__), "cpu"
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        results = run(options, Path(work))
    print(report(results))
    return 0


def run(options: argparse.Namespace, work: Path) -> list[Result]:
    make_sets(options.source, work)
    betons = {name: beton_digests(work / name) for name in ("betons", "area50", "lanczos50")}
    setting = setting_of(options) | {"betons": betons}
    results = read_results(options.results, setting)
    done = {(result["arm"], result["seed"]) for result in results}
    for seed in range(options.pairs):
        for arm in options.arms.split(","):
            if (arm, seed) not in done:
                began = time.time()
                scores = train(arm, seed, work)
                result = {"arm": arm, "seed": seed, **scores, "seconds": round(time.time() - began, 1)}
                results.append(result | {"setting": setting})
                with options.results.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                print(result, file=sys.stderr, flush=True)
    return results


def make_sets(source: Path, work: Path) -> None:
    prepare(source, "160", work)
    convert(work, "50", "area50")
    convert(work, "50", "lanczos50", "--write.filter=lanczos")


# ---------------------------------------------------------------------------------------------- one training
def train(arm: str, seed: int, work: Path) -> dict[str, float]:
    """Top-1 in percent, cross-entropy of validation, and the last epoch's mean training loss."""
    schedule = Schedule.model_validate({"phases": [PHASE]})
    torch.manual_seed(seed)
    model = network().to(memory_format=torch.channels_last)
    beton, pixels, train_epoch = ARMS[arm]
    with TrainLoader(
        work / f"{beton.format('train')}.beton", px=PX, batch=BATCH, min_scale=MIN_SCALE, seed=seed, workers=1
    ) as loader:
        batches, update = pixels(loader, work), train_epoch(model, schedule)
        for epoch in range(schedule.epochs):
            loss = update(batches(epoch), epoch)
    own = pixels is by_loader
    validation = by_loader_to_validate(work / f"{beton.format('val')}.beton") if own else by_pil_to_validate(work)
    return validate(model, validation) | {"train_loss": loss}


def network() -> nn.Module:
    """Four convolutions: so small that a training is short."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


@torch.inference_mode()
def validate(model: nn.Module, batches: Batches) -> dict[str, float]:
    """Over each image and its mirror image."""
    predict = Predictor(model.eval(), torch.float32, CPU, flip=True)
    logits, labels = torch.cat([predict(images) for images, _ in batches]), torch.cat([each for _, each in batches])
    loss = nn.functional.cross_entropy(logits, labels)
    return {"top1": 100 * (logits.argmax(1) == labels).double().mean().item(), "val_loss": loss.item()}


# ---------------------------------------------------------------------------------------------- pixels, as uint8
def by_loader(loader: TrainLoader, work: Path) -> Callable[[int], Batches]:
    return lambda epoch: [(images.clone(), labels.clone()) for images, labels in loader.epoch(epoch)]


def by_pil(loader: TrainLoader, work: Path) -> Callable[[int], Batches]:
    """The order, boxes and flips of ``loader``, the boxes scaled to the original images."""
    files = ImageFolder(str(work / "images/train")).samples
    widths, heights = loader.beton.widths, loader.beton.heights

    def batches(epoch: int) -> Batches:
        loader.crops.epoch = epoch
        made = []
        for samples in loader.samples(epoch):
            _, _, crops = loader.crops.of(samples, widths[samples], heights[samples])
            images = []
            for sample, crop in zip(samples.tolist(), crops, strict=True):
                image = opened(files[sample][0])
                x, y = image.width / int(widths[sample]), image.height / int(heights[sample])
                box = (crop["top"] * y, crop["left"] * x, crop["height"] * y, crop["width"] * x)
                cut = functional.resized_crop(image, *(round(float(each)) for each in box), [PX, PX])
                images.append(functional.hflip(cut) if crop["flip"] else cut)
            made.append((stacked(images), torch.tensor([files[sample][1] for sample in samples])))
        return made

    return batches


def by_torchvision(loader: TrainLoader, work: Path) -> Callable[[int], Batches]:
    """Its own order, boxes and flips, drawn from torch's generator."""
    data = plain_training.training_batches(work / "images/train", Phase.model_validate(PHASE), 0)
    data.dataset.loader = opened  # type: ignore[attr-defined]
    data.dataset.transform.transforms[-2:] = [v2.PILToTensor()]  # type: ignore[attr-defined]
    return lambda epoch: [(images.contiguous(memory_format=torch.channels_last), labels) for images, labels in data]


@cache
def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def stacked(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


@cache
def by_loader_to_validate(beton: Path) -> Batches:
    with ValLoader(beton, px=PX, batch=256, workers=1) as loader:
        return [(images.clone(), labels.clone()) for images, labels in loader]


@cache
def by_pil_to_validate(work: Path) -> Batches:
    resized = v2.Compose([v2.Resize(int(PX * 1.14)), v2.CenterCrop(PX)])
    files = ImageFolder(str(work / "images/val")).samples
    parts = [files[at : at + 256] for at in range(0, len(files), 256)]
    return [
        (stacked([resized(Image.open(path).convert("RGB")) for path, _ in part]), torch.tensor([y for _, y in part]))
        for part in parts
    ]


# ---------------------------------------------------------------------------------------------- engines
def by_loop(model: nn.Module, schedule: Schedule) -> Callable[[Batches, int], float]:
    groups = plain_training.groups(model, TRAIN.weight_decay)
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=TRAIN.momentum)
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def update(batches: Batches, epoch: int) -> float:
        made: Any = [(normalise(images / 255), labels) for images, labels in batches]
        return plain_training.train_epoch(model, nn.CrossEntropyLoss(), sgd, made, schedule, epoch, CPU)

    return update


def by_step(model: nn.Module, schedule: Schedule) -> Callable[[Batches, int], float]:
    sgd = optimizer.build(model, TRAIN, highest_lr=LR)
    step = TrainStep(LossModule(Predictor(model, torch.float32, CPU), TRAIN.label_smoothing), sgd, TRAIN)

    def update(batches: Batches, epoch: int) -> float:
        model.train()
        sums = MetricSums(CPU)
        for number, (images, labels) in enumerate(batches, start=1):
            step(images, labels, schedule.lr(epoch, number, len(batches)), sums)
        return float(sums.sums[1] / sums.sums[0])

    return update


ARMS = {  # the beton, of which PIL's arms take order and boxes; the pixels; the engine
    "ours": ("betons/{}_160", by_loader, by_loop),
    "pil": ("betons/{}_160", by_pil, by_loop),
    "torchvision": ("betons/{}_160", by_torchvision, by_loop),
    "step": ("betons/{}_160", by_loader, by_step),
    "area50": ("area50/{}_50", by_loader, by_loop),
    "lanczos50": ("lanczos50/{}_50", by_loader, by_loop),
}


# ---------------------------------------------------------------------------------------------- what it prints
def report(results: list[Result]) -> str:
    lines = ["| question | pairs | top-1, points | 95 % interval | deviation | validation loss | 95 % interval |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for question, (first, second) in QUESTIONS.items():
        by_seed = [{r["seed"]: r for r in results if r["arm"] == arm} for arm in (first, second)]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        if len(seeds) < 2:
            continue
        cells = [f"{question}: {first} - {second}", str(len(seeds))]
        for key, form in (("top1", ".2f"), ("val_loss", ".4f")):
            differences = [by_seed[0][seed][key] - by_seed[1][seed][key] for seed in seeds]
            mean, deviation = statistics.mean(differences), statistics.stdev(differences)
            half = stats.t.ppf(0.975, len(seeds) - 1) * deviation / len(seeds) ** 0.5
            cells += [f"{mean:+{form}}", f"{mean - half:+{form}} to {mean + half:+{form}}"]
            cells += [f"{deviation:.2f}"] if key == "top1" else []
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| arm | trainings | top-1, % | deviation | validation loss | training loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        own = [result for result in results if result["arm"] == arm]
        if len(own) > 1:
            means = {key: statistics.mean(result[key] for result in own) for key in ("top1", "val_loss", "train_loss")}
            deviation = statistics.stdev(result["top1"] for result in own)
            lines.append(
                f"| {arm} | {len(own)} | {means['top1']:.2f} | {deviation:.2f} | {means['val_loss']:.4f} | "
                f"{means['train_loss']:.4f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
