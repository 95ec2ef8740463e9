"""Ten seeded steps with every option against recorded losses, and two processes against one that emulates them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from helpers.training_runs import SERVER
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock, ResNet

from training.config.schedule import Ramp
from training.config.train_config import Train
from training.distributed.world import World
from training.engine.metrics import MetricSums
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import networks, optimizer, resnet
from training.model.mixing import MixupCutmix
from training.model.moving_average import MovingAverage

CPU = torch.device("cpu")
SINGLE = World(device=CPU)
CLASSES, STEPS, BATCH, PX = 10, 10, 8, 24
# Half a ResNet-18, because convolutions in double precision are slow.
ARCH = "resnet10"
setattr(torchvision.models, ARCH, lambda **options: ResNet(BasicBlock, [1, 1, 1, 1], **options))
GOLDEN = Path(__file__).with_name("golden_losses.json")

OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "label_smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "mixup_or_cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "ema": {"ema": 0.9},
    "nesterov": {"nesterov": True},
    "decay_everything": {"decay_norm": True, "weight_decay": 0.05},
    "blurpool": {"blurpool": True},
    "no_init_bn0": {"init_bn0": False},
    "two_accumulation_steps": {"accumulation_steps": 2},
    "bce": {"loss": "bce", "prior_bias": True},
    "bce_on_shares": {"loss": "bce", "label_smoothing": 0.08, "mixup": 0.2, "cutmix": 1.0},
    "decay_decoupled": {"decay_decoupled": True, "weight_decay": 0.05},
    "ema_every": {"ema": 2 ** -(3 / 4), "ema_every": 3},
    "clip_norm": {"clip_norm": 0.5, "accumulation_steps": 2},
    "momentum_ramp": {"momentum_to": 0.5},
}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(7)
    shape = (BATCH, 3, PX, PX)
    return [
        (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=source),
            torch.randint(0, CLASSES, (BATCH,), generator=source),
        )
        for _ in range(STEPS)
    ]


def losses(changes: dict[str, Any], dtype: torch.dtype = torch.float64, steps: int = STEPS) -> list[float]:
    """The loss of each step; with averaged weights, the one that those would have had after the step."""
    changes = dict(changes)
    accumulation_steps, init_bn0 = changes.pop("accumulation_steps", 1), changes.pop("init_bn0", True)
    blurpool, prior_bias = changes.pop("blurpool", False), changes.pop("prior_bias", False)
    momentum_to = changes.pop("momentum_to", None)
    options = Train(**changes)
    # Draws in double are the same on every processor; single ones differ in their last bits with its vectors.
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    net = resnet.build(ARCH, CLASSES, init_bn0, blurpool).to(torch.promote_types(dtype, torch.float32))
    if prior_bias:
        networks.set_prior_bias(net, CLASSES)
    mixing = MixupCutmix(options.mixup, options.cutmix, CLASSES)
    torch.set_default_dtype(torch.float32)
    predict = Predictor(net, dtype, CPU)
    step = TrainStep(
        LossModule(predict, options.label_smoothing, options.loss),
        optimizer.build(net, options, highest_lr=0.004),
        options,
        accumulation_steps=accumulation_steps,
        mixing=mixing,
    )
    average = MovingAverage(net, options.ema, options.ema_every)
    ramp = Ramp(epochs=(0, 1), first=0.9, last=momentum_to) if momentum_to else None
    found = []
    for number, (images, labels) in enumerate(batches()[:steps]):
        sums = MetricSums(CPU)
        step(images, labels, 0.002, sums, number, ramp and ramp.at(0, number, steps))
        if options.ema:
            average.update(net)
            with torch.no_grad():
                logits = Predictor(average.module.eval(), dtype, CPU)(images)
            found.append(nn.functional.cross_entropy(logits, labels).item())
        else:
            found.append(sums.scores(SINGLE).loss)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_ten_steps_give_the_recorded_losses(name: str) -> None:
    """In double precision, where sums in another order, as on another processor, differ far less than is compared."""
    assert losses(OPTIONS[name]) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_first_steps_in_lower_precision_are_near_those_in_double(dtype: torch.dtype, tolerance: float) -> None:
    recorded = json.loads(GOLDEN.read_text())["published"]
    assert losses({}, dtype, steps=3) == pytest.approx(recorded[:3], rel=tolerance)


def test_every_option_changes_the_losses() -> None:
    recorded = json.loads(GOLDEN.read_text())
    for name in OPTIONS.keys() - {"published"}:
        assert recorded[name] != pytest.approx(recorded["published"], rel=1e-4), name


def test_mixing_depends_only_on_its_key() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    mixing = MixupCutmix(0.4, 1.0, CLASSES)
    state = torch.random.get_rng_state()
    first, second, other = mixing(images, labels, 5), mixing(images, labels, 5), mixing(images, labels, 6)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.allclose(first[1].sum(1), torch.ones(4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_flip_tta_is_the_mean_with_the_mirror_image() -> None:
    torch.manual_seed(0)
    net = resnet.build("resnet18", CLASSES, init_bn0=False).eval()
    images = batches()[0][0]
    plain, flipped = Predictor(net, torch.float32, CPU), Predictor(net, torch.float32, CPU, flip=True)
    with torch.no_grad():
        expected = (plain(images) + plain(images.flip(3))) / 2
        assert torch.allclose(flipped(images), expected, atol=1e-6)
        assert not torch.allclose(flipped(images), plain(images), atol=1e-3)


def test_blurpool_blurs_only_strided_convolutions() -> None:
    net = resnet.build("resnet50", CLASSES, init_bn0=True, blurpool=True)
    blurred = [m for m in net.modules() if isinstance(m, resnet.BlurredConv)]
    # Layers 2, 3 and 4 each: the strided 3x3 and the strided downsampling convolution; conv1 has 3 channels.
    assert len(blurred) == 6
    constant = torch.ones(1, 128, 9, 9)
    inner = nn.functional.conv2d(constant, blurred[0].kernel, padding=1, groups=128)[..., 1:-1, 1:-1]
    assert torch.allclose(inner, torch.ones_like(inner))
    assert net.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, CLASSES)


# -------------------------------------------------------------------------------------- processes and their emulation
def step_in_eval_mode(accumulation_steps: int, rank: int, ranks: int, mixed: bool) -> tuple[nn.Module, TrainStep]:
    """A step whose BatchNorm does not depend on how a batch is shared."""
    torch.manual_seed(3)
    net = resnet.build(ARCH, CLASSES, init_bn0=False).double()
    loss_module = LossModule(Predictor(net, torch.float64, CPU), 0.0)
    parallel = DistributedDataParallel(loss_module) if ranks > 1 else loss_module
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, fused=True)
    net.eval()
    mixing = MixupCutmix(0.2, 1.0, CLASSES) if mixed else None
    world = {"accumulation_steps": accumulation_steps, "rank": rank, "ranks": ranks}
    return net, TrainStep(loss_module, optimizer, Train(), parallel=parallel, mixing=mixing, **world)


def weights_after(accumulation_steps: int, rank: int, ranks: int, mixed: bool = False) -> torch.Tensor:
    net, step = step_in_eval_mode(accumulation_steps, rank, ranks, mixed)
    for key, (images, labels) in enumerate(batches()[:4]):
        step(images[rank::ranks], labels[rank::ranks], 0.05, MetricSums(CPU), key=key)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def train_as_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for accumulation_steps in (1, 2):
        torch.save(weights_after(accumulation_steps, rank, 2), f"{folder}/{accumulation_steps}_{rank}.pt")
    torch.save(weights_after(2, rank, 2, mixed=True), f"{folder}/mixed_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    # From a process that has torch loaded: see helpers.training_runs.
    start_processes(train_as_rank, (str(tmp_path),), nprocs=2, start_method=SERVER.get_start_method())
    whole = weights_after(1, 0, 1)
    emulated = weights_after(4, 0, 1)
    mixed = weights_after(4, 0, 1, mixed=True)
    for name, alone in ((1, whole), (2, emulated), ("mixed", mixed)):
        both = [torch.load(tmp_path / f"{name}_{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert torch.equal(both[0], both[1])
        assert torch.allclose(both[0], alone, rtol=0, atol=1e-10)
    # The gradient of a mean over equal parts is the mean of the parts' gradients.
    assert torch.allclose(whole, emulated, rtol=0, atol=1e-10)


if __name__ == "__main__":  # PYTHONPATH=.:tests python THIS FILE: records the losses anew
    GOLDEN.write_text(json.dumps({name: losses(changes) for name, changes in OPTIONS.items()}, indent=1) + "\n")
