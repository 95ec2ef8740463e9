"""Draw what the network sees: for each phase, training crops and validation crops from the loaders, with labels.

Takes every option of train_imagenet.py. Crops are shown pixel by pixel; small ones are all enlarged by the same factor.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from data_tools.beton import contact_sheet
from data_tools.beton.contact_sheet import Crop, Row
from data_tools.common.errors import printable, program
from data_tools.common.options import Picture, parse
from training.config.datasets import Datasets, read_datasets
from training.config.run_config import RunConfig
from training.config.schedule import Phase

TRAINING_ROWS = 2
MIN_PX = 112  # smaller crops are enlarged by a whole number


class PreviewOptions(RunConfig):
    out: Picture = Field(Path("preview.png"), description="image file to write (.png, .jpg, .webp)")


@program("training.preview")
def main(argv: Sequence[str]) -> int:
    options = parse(PreviewOptions, argv, prog="training.preview", description=__doc__ or "")
    datasets = read_datasets(options.data.dir, options.schedule.betons())
    # All crops are enlarged alike, so that the smallest can be seen.
    zoom = -(-MIN_PX // min(min(phase.px, phase.val_px) for phase in options.schedule.phases))
    contact_sheet.save(list(rows(options, datasets, zoom)), zoom, options.out)
    print(options.out)
    return 0


def rows(options: RunConfig, datasets: Datasets, zoom: int) -> Iterator[Row]:
    """The rows of each phase: training crops, square validation crops, and rectangular ones if the phase uses them."""
    for phase in options.schedule.phases:
        kind = f"random crops of {100 * phase.min_scale:.3g}% of the area or more, flipped or not"
        mixed = [f", {name}" for name in ("mixup", "cutmix") if getattr(options.train, name)]
        crops = training_crops(options, datasets, phase, TRAINING_ROWS * contact_sheet.per_row(phase.px * zoom))
        yield Row(f"training on train_{phase.data}: {kind}{''.join(mixed)}", crops, heading=_heading(phase, zoom))
        count, val_set = contact_sheet.per_row(phase.val_px * zoom), f"val_{phase.val_data}"
        used = "not used in this phase" if phase.rectangular_val else "validation"
        resized = f"the centre after resizing the shorter side to {phase.val_shorter_px} px"
        crops = validation_crops(options, datasets, phase, count, rectangular=False)
        yield Row(f"{used}: squares of {val_set}, {resized}", crops)
        if phase.rectangular_val:
            crops = validation_crops(options, datasets, phase, count, rectangular=True)
            count = next(n for n in range(len(crops), -1, -1) if n < 2 or contact_sheet.fit(_pick(crops, n), zoom))
            yield Row(
                f"validation: rectangles of {val_set}, from the narrowest to the widest batch", _pick(crops, count)
            )


def _heading(phase: Phase, zoom: int) -> str:
    plural = "s" if "-" in phase.span else ""
    val = f", validation at {phase.val_px} px" if phase.val_px != phase.px else ""
    enlarged = f"   ({zoom} times enlarged)" if zoom > 1 else ""
    return f"Epoch{plural} {phase.span}: {phase.px} px{val}{enlarged}"


def training_crops(options: RunConfig, datasets: Datasets, phase: Phase, count: int) -> list[Crop]:
    """The first images of the phase's first epoch, as a single process gets them."""
    import torch

    from training.engine.phase_loaders import train_loader
    from training.engine.step import Normalise
    from training.loader.sample_order import batch_key
    from training.model.mixing import MixupCutmix

    batch, classes = min(count, datasets.images(phase)), datasets.classes
    with (
        train_loader(options, datasets, phase, batch=batch, workers=options.data.workers) as loader,
        loader.epoch(phase.start) as batches,
    ):
        images, labels = next(batches)
    mixing = MixupCutmix(options.train.mixup, options.train.cutmix, len(classes))
    if not mixing:
        return _crops(images, [classes[label] for label in labels])
    # As in a training step, after normalisation.
    normalise = Normalise(torch.float32, torch.device("cpu"))
    mixed, shares = mixing(normalise(images), labels, batch_key(options.run.seed, phase.start, 1))
    pixels = (mixed - normalise.bias) / normalise.scale
    names = [_share_label(image_shares, classes) for image_shares in shares.tolist()]
    return _crops(pixels.round().clamp(0, 255).to(torch.uint8), names)


def _share_label(shares: list[float], classes: tuple[str, ...]) -> str:
    largest = sorted(range(len(shares)), key=lambda label: -shares[label])[:2]
    return " + ".join(f"{shares[label]:.0%} {classes[label]}" for label in largest if shares[label] >= 0.005)


def validation_crops(
    options: RunConfig, datasets: Datasets, phase: Phase, count: int, *, rectangular: bool
) -> list[Crop]:
    """Images from batches spread over the validation set, in order, cropped as in those batches."""
    from training.engine.phase_loaders import val_loader

    batches = -(-datasets.manifests[f"val_{phase.val_data}"].images // phase.val_batch)
    ranks = max(1, batches // count)  # as one of `ranks` processes, the loader takes every ranks-th batch
    shown = phase.model_copy(update={"rectangular_val": rectangular})
    crops: list[Crop] = []
    with val_loader(options, datasets, shown, ranks=ranks, workers=options.data.workers) as loader:
        per_batch = -(-count // max(1, len(loader)))
        for images, labels in loader:
            picked = _spread(len(labels), per_batch)
            crops += _crops(images[picked], [datasets.classes[label] for label in labels[picked]])
    return _pick(crops, count)


def _pick(crops: list[Crop], count: int) -> list[Crop]:
    return [crops[at] for at in _spread(len(crops), count)]


def _spread(total: int, count: int) -> list[int]:
    """``count`` different numbers below ``total``, evenly spaced."""
    count = min(total, count)
    return [at * total // count for at in range(count)]


def _crops(images: Any, labels: list[str]) -> list[Crop]:
    pixels = images.permute(0, 2, 3, 1).numpy().copy()
    return [Crop(image, printable(label)) for image, label in zip(pixels, labels, strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
