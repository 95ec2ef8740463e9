"""Train a recipe with plain PyTorch and torchvision: the other side of equivalence.py.

    python benchmarks/plain_training.py RECIPE IMAGES --out FILE [--seed 0] [--device cpu] [--workers 0]

An ordinary loop in fp32, without TF32 on a GPU: ImageFolder and PIL, torchvision's crops and network, DataLoader, SGD.
Of this project it takes only the numbers of the recipe: sizes, batches, rates. IMAGES holds train/CLASS/FILE and
val/CLASS/FILE. --out gets the last epoch's scores as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from training.config.run_config import RunConfig, from_argv
from training.config.schedule import Phase, Schedule
from training.config.train_config import Model, Train

Batches = DataLoader[tuple[torch.Tensor, torch.Tensor]]
TO_TENSOR = (transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="file for the scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images; 0: load them in this one")
    options = parser.parse_args(argv)
    config = from_argv(["--config-file", str(options.recipe)])
    check(config)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    scores = train(config, options.images, options.seed, torch.device(options.device), options.workers)
    options.out.write_text(json.dumps(scores) + "\n")
    return 0


def check(config: RunConfig) -> None:
    """SystemExit if the recipe asks for something that the loop below does not do."""
    asked, schedule = config.train, config.schedule
    done = Train(weight_decay=asked.weight_decay, momentum=asked.momentum, label_smoothing=asked.label_smoothing)
    rectangles = any(phase.rectangular_val for phase in schedule.phases)
    if asked != done or config.model != Model(arch=config.model.arch) or schedule.momentum_ramps or rectangles:
        raise SystemExit("plain_training.py: the recipe asks for more than SGD on squares with init_bn0")


def train(config: RunConfig, images: Path, seed: int, device: torch.device, workers: int) -> dict[str, float]:
    """The scores after the last epoch: ``top1`` and ``top5`` in percent, and its mean ``train_loss``."""
    torch.manual_seed(seed)
    schedule, options = config.schedule, config.train
    classes = len(ImageFolder(str(images / "train")).classes)
    model = network(config.model.arch, classes).to(device)
    optimizer = torch.optim.SGD(groups(model, options.weight_decay), lr=0.0, momentum=options.momentum)
    criterion = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    loss = 0.0
    for phase in schedule.phases:
        batches = training_batches(images / "train", phase, workers, pin=device.type == "cuda")
        for epoch in range(phase.start, phase.end):
            loss = train_epoch(model, criterion, optimizer, batches, schedule, epoch, device)
    return validate(model, validation_batches(images / "val", schedule.phases[-1], workers), device) | {
        "train_loss": loss
    }


def network(arch: str, classes: int) -> nn.Module:
    """torchvision's network, with the recipe's init_bn0: each block starts as the identity, fc weights are small."""
    model: nn.Module = getattr(torchvision.models, arch)(num_classes=classes, zero_init_residual=True)
    nn.init.normal_(model.get_parameter("fc.weight"), 0.0, 0.01)
    return model


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on everything but BatchNorm, whose parameters are the one-dimensional ones except fc's bias."""
    norms = [p for name, p in model.named_parameters() if p.ndim == 1 and name != "fc.bias"]
    others = [p for name, p in model.named_parameters() if p.ndim > 1 or name == "fc.bias"]
    return [{"params": others, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]


def training_batches(folder: Path, phase: Phase, workers: int, pin: bool = False) -> Batches:
    crop = transforms.RandomResizedCrop(phase.px, scale=(phase.min_scale, 1.0))
    data = ImageFolder(str(folder), transforms.Compose([crop, transforms.RandomHorizontalFlip(), *TO_TENSOR]))
    return DataLoader(
        data,
        phase.batch_per_gpu,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
    )


def validation_batches(folder: Path, phase: Phase, workers: int) -> Batches:
    resize, crop = transforms.Resize(phase.val_shorter_px), transforms.CenterCrop(phase.val_px)
    return DataLoader(
        ImageFolder(str(folder), transforms.Compose([resize, crop, *TO_TENSOR])), phase.val_batch, num_workers=workers
    )


def train_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    schedule: Schedule,
    epoch: int,
    device: torch.device,
) -> float:
    """Returns the mean loss."""
    model.train()
    total = torch.zeros((), device=device)
    for number, (images, labels) in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(epoch, number, len(batches))
        loss = criterion(model(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / len(batches)


@torch.inference_mode()
def validate(model: nn.Module, batches: Batches, device: torch.device) -> dict[str, float]:
    model.eval()
    images_seen, top1, top5 = 0, 0, 0
    for images, labels in batches:
        logits = model(images.to(device)).cpu()
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        images_seen += len(labels)
        top1 += int(best[:, 0].sum())
        top5 += int(best.any(dim=1).sum())
    return {"top1": 100 * top1 / images_seen, "top5": 100 * top5 / images_seen}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
