"""The one configuration of a training run: frozen, typed, checked when made, the same from YAML, argv or code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data_tools.common.options import OptionError, check, option, parse_or_exit
from training.config import imagenet18
from training.config.phases_yaml import from_phases
from training.config.schedule import Phase, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """where the betons are and how they are read"""

    dir: Path = option(Path("data/beton"), "folder that write_datasets.py wrote")
    workers: int | None = option(None, "loader threads per process; none: the cores at hand / local processes", low=1)
    verify: Literal["structure", "checksums"] = option(
        "checksums", "checksums: each sample's bytes against NAME.beton.xxh64 as they are read; structure: tables alone"
    )
    page_window: int = option(
        0, "0: shuffle uniformly; n: n random pages (8 MB) at a time, for a set larger than memory", low=0
    )
    train_images: int | None = option(None, "for run.plan: number of training images where there is no beton", low=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleOptions:
    """epochs, sizes, batches, learning rates"""

    phases: list[object] | None = option(None, "the phases (a list, in the YAML; see rn50_configs/titan8.yaml)")
    imagenet18: str | None = option(None, "the same in the published one-line syntax, in place of phases")
    gpus: int = option(1, "GPUs of the whole job that the learning rates are meant for", low=1)

    def __post_init__(self) -> None:
        check(self)
        if (self.phases is None) == (self.imagenet18 is None):
            raise OptionError(
                "phases: give either phases or imagenet18 (a recipe: --config-file rn50_configs/titan8.yaml)"
            )
        self.build()

    def build(self) -> Schedule:
        """The schedule. OptionError names the entry at fault."""
        return from_phases(self.phases) if self.imagenet18 is None else imagenet18.parse(self.imagenet18)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """the network"""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = option(
        "resnet50", "a ResNet of torchvision"
    )
    init_bn0: bool = option(True, "zero the last BatchNorm of each residual block; fc weights N(0, 0.01)")
    blurpool: bool = option(False, "blur before every strided convolution, against aliasing")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """optimizer, loss, precision"""

    momentum: float = option(0.9, "of SGD", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum")
    weight_decay: float = option(1e-4, "of convolution and linear weights", low=0)
    decay_norm: bool = option(False, "weight decay on BatchNorm parameters too")
    decay_bias: bool = option(True, "weight decay on biases too")
    label_smoothing: float = option(0.0, "of the training loss", low=0, high=0.99)
    mixup: float = option(0.0, "alpha of MixUp; 0: off; with cutmix too, one of them is drawn for each batch", low=0)
    cutmix: float = option(0.0, "alpha of CutMix; 0: off", low=0)
    ema: float = option(0.0, "decay a step of averaged weights, validated beside the plain ones; 0: off", low=0, high=1)
    amp: Literal["auto", "fp16", "bf16", "fp32"] = option(
        "auto", "auto: bf16 from Ampere on, fp16 before, fp32 on a CPU"
    )
    max_bad_steps: int = option(10, "stop after so many steps in a row without a finite loss or gradient", low=1)
    loss_scale: float | Literal["dynamic"] = option(1024.0, "for fp16: a number, or dynamic", low=1)
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = option(
        "auto", "torch.compile of the step, by mode; auto: default on a GPU, off on a CPU"
    )
    flip_tta: bool = option(False, "validate on the mean of each image and its mirror image")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dist:
    """processes and devices"""

    processes: int | None = option(None, "processes to start; none: one per visible GPU, else 1", low=1)
    device: Literal["auto", "cuda", "cpu"] = option("auto", "auto: GPUs if there are any")
    emulate_gpus: int | None = option(None, "keep the global batch of so many GPUs on fewer, by accumulation", low=1)
    timeout_minutes: float = option(10.0, "give up when a process makes no progress for so long", low=0.05)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """what to do, and where the results go"""

    dir: Path = option(Path("runs/imagenet"), "run folder: config, epochs.csv, events, checkpoints")
    seed: int = option(0, "of weights, order and crops", low=0)
    resume: str = option(
        "auto", "auto: go on where the run folder's last checkpoint is; none: start anew; or a checkpoint"
    )
    checkpoint_minutes: float = option(10.0, "save within an epoch so often; at its end in any case", low=0)
    plan: bool | Path = option(False, "true: print the schedule and stop; FILE.csv: write one row per batch and stop")
    eval_only: bool = option(False, "validate run.checkpoint as the last phase does, on its val_data, and stop")
    checkpoint: Path | None = option(None, "weights for eval_only: a checkpoint, torchvision's .pth, or safetensors")
    eval_px: int | None = option(None, "for eval_only: size of the crop; none: the last phase's", low=8, high=4096)
    eval_rect: bool | None = option(None, "for eval_only: rectangles or squares; none: as the last phase")
    profile: bool = option(False, "torch profiler's trace of ten steady steps of each phase into the run folder")
    deterministic: bool = option(False, "the same bits on every run of the same machine; slower on a GPU")
    log: Literal["text", "json"] = option(
        "text", "standard output: a table of epochs, or a JSON object a line for every epoch and for progress"
    )
    log_seconds: float = option(30.0, "a line of progress so often; on a terminal text has a bar instead", low=0)

    def __post_init__(self) -> None:
        check(self)
        if self.eval_only and self.checkpoint is None:
            raise OptionError("eval_only: needs --run.checkpoint=PATH")
        if self.checkpoint is not None and not self.eval_only:
            raise OptionError("checkpoint: only for --run.eval_only=true; to continue training use --run.resume=PATH")
        for key in ("eval_px", "eval_rect"):
            if getattr(self, key) is not None and not self.eval_only:
                raise OptionError(f"{key}: only for --run.eval_only=true; a phase of the schedule has val_px and more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """where a run is logged besides its folder"""

    wandb: str | None = option(None, "project on Weights & Biases (pip install wandb; WANDB_MODE=offline works)")

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
        """The phase by whose rules ``run.eval_only`` validates: the last, with what ``run.eval_...`` changes of it."""
        last, run = self.schedule.build().phases[-1], self.run
        px = last.val_px if run.eval_px is None else run.eval_px
        return replace(last, val_px=px, rectangular=last.rectangular if run.eval_rect is None else run.eval_rect)

    def sets(self) -> tuple[str, ...]:
        """Names of the betons that the run reads, each once: the schedule's, or the one that is evaluated on."""
        return (f"val_{self.evaluated().val_data}",) if self.run.eval_only else self.schedule.build().sets()


def as_mapping(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The configuration as sections of plain values, for a file."""
    plain = asdict(config)
    return {s: {k: str(v) if isinstance(v, Path) else v for k, v in o.items()} for s, o in plain.items()}


DESCRIPTION = "Train a ResNet on ImageNet betons by a progressive schedule. Recipes: rn50_configs/*.yaml."


def from_argv(argv: Sequence[str], *, prog: str = "train_imagenet.py", description: str = DESCRIPTION) -> RunConfig:
    """The configuration of a command line and its ``--config-file``; exits 2 with one line on a mistake."""
    return parse_or_exit(RunConfig, argv, prog=prog, description=description)
