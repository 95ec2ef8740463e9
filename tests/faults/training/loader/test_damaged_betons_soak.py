"""Long test: hundreds of random kinds of damage to a beton, each an error or without effect."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
import torch
from helpers.betons import copy_beton

from data_tools.beton.format import SAMPLES_START, read_layout
from training.loader.beton_reader import LoadError
from training.loader.loaders import TrainLoader

pytestmark = pytest.mark.slow
DAMAGES = 600
NAME = "train_160.beton"


def batches(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with TrainLoader(path, px=64, batch=5, min_scale=0.3, workers=2) as loader, loader.epoch(0) as epoch:
        return [(images.clone(), labels.clone()) for images, labels in epoch]


def used_ranges(path: Path) -> list[tuple[int, int]]:
    """The parts of the file that hold data: header and sample table, each sample, the allocation table."""
    found = read_layout(path)
    start, table = found.samples["f0"]["data_ptr"].astype(int), int(found.header["alloc_table_ptr"])
    pictures = list(zip(start.tolist(), (start + found.sizes().astype(int)).tolist(), strict=True))
    return [(0, SAMPLES_START + found.samples.nbytes), *pictures, (table, path.stat().st_size)]


def damage(path: Path, places: list[tuple[int, int]], rng: random.Random) -> str:
    """Change the file in one of several ways, mostly where it holds data."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["bit", "zeros", "noise", "moved", "cut", "longer"])
    at = rng.randrange(*rng.choice(places)) if rng.random() < 0.9 else rng.randrange(len(content))
    length = 1 << rng.randrange(14)
    if kind == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "noise":
        content[at : at + length] = rng.randbytes(len(content[at : at + length]))
    elif kind == "moved":
        start = rng.randrange(*rng.choice(places))
        part = content[start : start + length]
        content[at : at + len(part)] = part[: len(content) - at]
    elif kind == "cut":
        del content[at:]
    else:
        content += rng.randbytes(length)
    path.write_bytes(content)
    return kind


def test_random_damage_never_gives_a_wrong_batch(betons: Path, tmp_path: Path) -> None:
    beton, whole = copy_beton(betons / NAME, tmp_path), (betons / NAME).read_bytes()
    expected, rng, outcomes = batches(beton), random.Random(11), Counter[str]()
    places = used_ranges(beton)

    def hung(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"loading a damaged file hangs: {dict(outcomes)}")

    before = signal.signal(signal.SIGALRM, hung)
    try:
        for _ in range(DAMAGES):
            kind = damage(beton, places, rng)
            signal.alarm(60)
            try:
                found = batches(beton)
            except (LoadError, ValueError, OSError) as error:
                assert NAME in str(error)
                outcomes[f"{kind}: refused"] += 1
            else:
                for (images, labels), (wanted, own) in zip(found, expected, strict=True):
                    assert torch.equal(images, wanted) and torch.equal(labels, own), f"{kind}: a wrong batch"
                outcomes[f"{kind}: without effect"] += 1
            signal.alarm(0)
            beton.write_bytes(whole)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sum(count for outcome, count in outcomes.items() if "refused" in outcome) > DAMAGES // 2
    print(f"{DAMAGES} damages: {dict(sorted(outcomes.items()))}; wrong batches 0, hangs 0")
