"""The configuration of a training run: frozen, typed, checked on construction; from YAML, argv or code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data_tools.common.options import OptionError, check, option, parse
from training.config import imagenet18
from training.config.augmentations import Augmentation, read_augmentations
from training.config.phases_yaml import from_phases
from training.config.schedule import Phase, Schedule

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """where the betons are and how they are read"""

    dir: Path = option(Path("data/beton"), "the folder that `write_datasets.py` wrote")
    workers: int | None = option(
        None, "loader threads per process", low=1, none="the usable cores, divided by the processes of this machine"
    )
    checksums: bool = option(
        True,
        "compare each sample's bytes with NAME.beton.xxh64 as they are read; without, only tables and digests are "
        "compared, before the first epoch",
        was=("data.verify",),
    )
    page_window: int = option(
        0, "0: shuffle uniformly; n: n random pages (8 MB) at a time, for a set larger than memory", low=0
    )
    augment: list[object] = option(
        [],
        "augmentations after crop and flip, a list; in the YAML: classes of `ffcv.transforms` on the host, then of "
        "`torchvision.transforms.v2` on the device, each with its arguments",
        none="crop and flip alone",
    )
    augmentations: tuple[Augmentation, ...] = dataclasses.field(init=False, repr=False, compare=False)
    train_images: int | None = option(
        None,
        "for `run.plan` and `training.estimate`: training images of each set",
        low=1,
        none="as the manifests say; for the estimate, ImageNet's 1281167",
        was=("train_images",),
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "augmentations", read_augmentations(self.augment))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleOptions:
    """epochs, sizes, batches, learning rates"""

    phases: list[object] | None = option(None, "the phases, a list; in the YAML", none="`imagenet18` is given")
    imagenet18: str | None = option(
        None, "the same in the published one-line syntax, in place of `phases`", none="`phases` are given"
    )
    gpus: int = option(
        1,
        "GPUs of the whole job that the learning rates are meant for; a note is printed where others are at work",
        low=1,
    )
    parsed: Schedule = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self)
        if (self.phases is None) == (self.imagenet18 is None):
            raise OptionError(
                "give either phases or imagenet18 (a recipe: --config-file rn50_configs/titan8.yaml)", where="phases"
            )
        parsed = from_phases(self.phases) if self.imagenet18 is None else imagenet18.parse(self.imagenet18)
        object.__setattr__(self, "parsed", parsed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """the network"""

    arch: Arch = option("resnet50", "a ResNet of torchvision")
    init_bn0: bool = option(True, "zero the last BatchNorm of each residual block; fc weights from N(0, 0.01)")
    blurpool: bool = option(False, "blur before every strided convolution but the first, against aliasing")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """optimizer, loss, precision"""

    momentum: float = option(0.9, "momentum of SGD", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum")
    weight_decay: float = option(1e-4, "weight decay of convolution and linear weights", low=0)
    decay_norm: bool = option(False, "weight decay on BatchNorm parameters, too")
    decay_bias: bool = option(True, "weight decay on the fc layer's bias, too")
    label_smoothing: float = option(0.0, "label smoothing of the training loss", low=0, high=0.99)
    mixup: float = option(
        0.0, "alpha of MixUp; 0: off. With CutMix as well, one of the two is drawn for each batch", low=0
    )
    cutmix: float = option(0.0, "alpha of CutMix; 0: off", low=0)
    ema: float = option(
        0.0, "decay per step of averaged weights, which are validated beside the plain ones; 0: off", low=0, high=1
    )
    amp: Literal["auto", "fp16", "bf16", "fp32"] = option(
        "auto", "precision: `fp16`, `bf16` or `fp32`; `auto`: bf16 from Ampere on, fp16 before, fp32 on a CPU"
    )
    max_bad_steps: int = option(10, "stop after this many steps in a row without a finite loss or gradient", low=1)
    loss_scale: float | Literal["dynamic"] = option(1024.0, "loss scale for fp16: a number, or `dynamic`", low=1)
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = option(
        "auto",
        "torch.compile of the step: `off`, or its mode `default`, `reduce-overhead` or `max-autotune`; "
        "`auto`: `default` on a GPU, `off` on a CPU. The last two use CUDA graphs, but not where `dist.emulate_gpus` "
        "accumulates gradients. Validation is not compiled",
    )
    flip_tta: bool = option(False, "validate on the mean of each image and its mirror image")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dist:
    """processes and devices"""

    processes: int | None = option(
        None, "processes to start; under `torchrun`, torchrun decides", low=1, none="one per visible GPU, else 1"
    )
    device: Literal["auto", "cuda", "cpu"] = option("auto", "`cuda` or `cpu`; `auto`: GPUs if there are any")
    emulate_gpus: int | None = option(
        None, "keep the global batch of this many GPUs on fewer, by accumulation", low=1, none="no accumulation"
    )
    timeout_minutes: float = option(10.0, "give up when a process makes no progress for this long", low=0.05)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """what to do, and where the results go"""

    dir: Path = option(
        Path("runs/imagenet"), "run folder: `config.json`, `environment.json`, `epochs.csv`, events, checkpoints"
    )
    seed: int = option(0, "seed of weights, order, crops and flips", low=0)
    resume: str = option(
        "auto",
        "where to begin in a folder without a checkpoint of this run: `none`, or the path of a checkpoint; a folder "
        "that has one goes on from there",
        none="`auto`: as `none`",
    )
    accept_changes: tuple[str, ...] = option(
        (),
        "options whose other values a checkpoint may be continued with, comma-separated; as the refusal names them",
    )
    checkpoint_minutes: float = option(
        10.0, "minutes between checkpoints within an epoch; its end has one in any case", low=0
    )
    plan: bool = option(
        False, "print the schedule, a line an epoch, and stop", hint="a file for it is --run.plan_csv=FILE.csv"
    )
    plan_csv: Path | None = option(
        None, "write the schedule, a row a batch, to this file and stop", none="no such file"
    )
    eval_only: bool = option(False, "validate `run.checkpoint` as the last phase does, and stop")
    checkpoint: Path | None = option(
        None,
        "weights for `run.eval_only`: a checkpoint, a `.pth` of torchvision's kind, or safetensors",
        none="`run.eval_only` needs one",
    )
    eval_px: int | None = option(
        None, "for `run.eval_only`: size of the crop", low=8, high=4096, none="that of the last phase"
    )
    eval_rectangular: bool | None = option(
        None, "for `run.eval_only`: rectangles, or squares", none="as the last phase", was=("run.eval_rect",)
    )
    profile: bool = option(False, "write the torch profiler's trace of ten steps of each phase into the run folder")
    deterministic: bool = option(False, "the same bits on every run of the same machine; slower on a GPU")

    def __post_init__(self) -> None:
        check(self)
        if self.eval_only and self.checkpoint is None:
            raise OptionError("needs --run.checkpoint=PATH", where="eval_only")
        if self.checkpoint is not None and not self.eval_only:
            raise OptionError(
                "only for --run.eval_only=true", where="checkpoint", remedy="to continue training use --run.resume=PATH"
            )
        for key in ("eval_px", "eval_rectangular"):
            if getattr(self, key) is not None and not self.eval_only:
                remedy = "a phase of the schedule has val_px and rectangular_val"
                raise OptionError("only for --run.eval_only=true", where=key, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """how a run is followed"""

    format: Literal["text", "json"] = option(
        "text",
        "standard output: `text`, a table of epochs; `json`, a JSON object a line for every epoch and for progress",
        was=("run.log",),
    )
    seconds: float = option(
        30.0,
        "seconds between lines of progress; on a terminal, `text` has a bar instead",
        low=0,
        was=("run.log_seconds",),
    )
    wandb: str | None = option(
        None,
        "project on Weights & Biases (`pip install wandb`; `WANDB_MODE=offline` works)",
        none="nothing is sent",
    )
    mllog: Path | None = option(
        None,
        "file for the events of MLPerf's log, as of training 4.0's open ResNet; a new run replaces them",
        none="no such log",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything a run depends on. Sections as on the command line: ``--section.key=value``."""

    data: Data = Data()
    schedule: ScheduleOptions
    model: Model = Model()
    train: Train = Train()
    dist: Dist = Dist()
    run: Run = Run()
    log: Log = Log()

    def evaluated(self) -> Phase:
        """The phase that ``run.eval_only`` validates as: the last one, with the changes of ``run.eval_...``."""
        last, run = self.schedule.parsed.phases[-1], self.run
        px = last.val_px if run.eval_px is None else run.eval_px
        rectangular = last.rectangular_val if run.eval_rectangular is None else run.eval_rectangular
        return replace(last, val_px=px, rectangular_val=rectangular)

    def betons(self) -> tuple[str, ...]:
        """Names of the betons that the run reads, each once: the schedule's, or the one of ``run.eval_only``."""
        return (f"val_{self.evaluated().val_data}",) if self.run.eval_only else self.schedule.parsed.betons()


def as_mapping(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The configuration as sections of plain values, for a file."""
    return {section.name: _plain(getattr(config, section.name)) for section in dataclasses.fields(RunConfig)}


def _plain(section: Any) -> dict[str, Any]:
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section) if field.init}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


DESCRIPTION = "Train a ResNet on ImageNet betons by a progressive schedule. Recipes: rn50_configs/*.yaml."


def from_argv(argv: Sequence[str], *, prog: str = "train_imagenet.py") -> RunConfig:
    """The configuration of a command line and its ``--config-file``. OptionError for a mistake."""
    return parse(RunConfig, argv, prog=prog, description=DESCRIPTION)
