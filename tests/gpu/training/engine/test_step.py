"""Every option of the network and the step on a GPU: no wait for the device, and the losses of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.recipes import ONE_EPOCH, write_recipe
from helpers.training_runs import train

from training import trainer
from training.config.run_config import Model, Train
from training.engine.throughput import StepClock
from training.runlog.epoch_table import EpochRow, read_epochs

HALF, SINGLE = 0.05, 0.01  # relative differences of a loss: bf16 and fp16; TF32
EAGER = "--train.compile=off"
OPTIONS: dict[str, tuple[str, ...]] = {
    "fp32": (EAGER, "--train.amp=fp32"),
    "bf16": (EAGER, "--train.amp=bf16"),
    "fp16": (EAGER, "--train.amp=fp16"),
    "fp16, dynamic scale": (EAGER, "--train.amp=fp16", "--train.loss_scale=dynamic"),
    "label smoothing": (EAGER, "--train.label_smoothing=0.1"),
    "mixup": (EAGER, "--train.mixup=0.2"),
    "cutmix": (EAGER, "--train.cutmix=1"),
    "mixup or cutmix": (EAGER, "--train.mixup=0.2", "--train.cutmix=1"),
    "averaged weights": (EAGER, "--train.ema=0.9"),
    "nesterov": (EAGER, "--train.nesterov=true"),
    "no momentum": (EAGER, "--train.momentum=0"),
    "decay of everything": (EAGER, "--train.decay_norm=true", "--train.weight_decay=0.05"),
    "no decay of biases": (EAGER, "--train.decay_bias=false"),
    "mirror images": (EAGER, "--train.flip_tta=true"),
    "blurpool": (EAGER, "--model.blurpool=true"),
    "no init_bn0": (EAGER, "--model.init_bn0=false"),
    "prior bias, binary cross-entropy": (EAGER, "--train.loss=bce", "--model.prior_bias=true"),
    "stem on blocks": (EAGER, "--model.stem_blocks=true"),
    "decoupled decay, clipping": (EAGER, "--train.amp=fp16", "--train.decay_decoupled=true", "--train.clip_norm=1"),
    "averaged weights, of every second step": (EAGER, "--train.ema=0.87", "--train.ema_every=2"),
    "accumulation": (EAGER, "--dist.emulate_gpus=2"),
    "compiled": ("--train.compile=default",),
    "compiled, everything": ("--train.mixup=0.2", "--train.cutmix=1", "--train.ema=0.9", "--dist.emulate_gpus=2"),
    "own BatchNorm": ("--train.compile=default", "--model.fused_batch_norm=true"),
    "own BatchNorm, fp16": ("--train.compile=default", "--train.amp=fp16", "--model.fused_batch_norm=true"),
    "own BatchNorm, CUDA graphs": ("--train.compile=reduce-overhead", "--model.fused_batch_norm=true"),
    "CUDA graphs": ("--train.compile=reduce-overhead",),
    "CUDA graphs, averaged weights": ("--train.compile=reduce-overhead", "--train.ema=0.9"),
}
NOT_HERE = {"model.arch": "the benchmark trains a ResNet-50"}

pytestmark = pytest.mark.gpu


class WatchedClock(StepClock):
    """From a batch's arrival to the end of its step, whatever waits for the device raises."""

    def wait(self, since: float) -> None:
        super().wait(since)
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    def lap(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        super().lap()


def epoch(folder: Path, betons: Path, device: torch.device, *options: str) -> EpochRow:
    """The row of a short epoch: four steps, or two that accumulate."""
    folder.mkdir()
    phase = ONE_EPOCH[0] | {"px": 64, "batch_per_gpu": 10}
    plain = {"amp": "auto" if device.type == "cuda" else "fp32", "ema": None, "mixup": None}
    recipe = write_recipe(folder / "r.yaml", [phase], data={"dir": str(betons)}, train=plain)
    train(recipe, folder / "run", f"--dist.device={device.type}", "--run.deterministic=false", *options)
    return read_epochs(folder / "run")[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_steps_wait_for_nothing_and_give_the_losses_of_the_cpu(
    name: str, betons: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = epoch(tmp_path / "cpu", betons, torch.device("cpu"), *OPTIONS[name], "--train.amp=fp32", EAGER)
    monkeypatch.setattr(trainer, "StepClock", WatchedClock)
    here = epoch(tmp_path / "here", betons, device, *OPTIONS[name])
    tolerance = SINGLE if "--train.amp=fp32" in OPTIONS[name] else HALF
    assert here.train_loss == pytest.approx(on_cpu.train_loss, rel=tolerance)


def test_every_option_of_network_and_step_has_a_case() -> None:
    given = {option.partition("=")[0].removeprefix("--") for options in OPTIONS.values() for option in options}
    known = {f"{kind.__name__.lower()}.{name}" for kind in (Model, Train) for name in kind.model_fields}
    assert known == (given | NOT_HERE.keys()) - {"dist.emulate_gpus"}
