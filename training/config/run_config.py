"""The configuration of a training run: frozen, typed, checked on construction; from YAML, argv or code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_tools.common.options import OptionError, check, option, parse
from training.config import imagenet18
from training.config.augmentations import Augmentation, read_augmentations
from training.config.other_names import ELSEWHERE
from training.config.phases_yaml import from_phases
from training.config.schedule import Phase, Schedule
from training.config.train_config import Model, Train

# More than the cores of any machine; many more threads than cores only wait, and fail to start once memory is taken.
MOST_WORKERS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """where the betons are and how they are read"""

    dir: Path = option(Path("data/beton"), "the folder that `write_datasets.py` wrote")
    workers: int | None = option(
        None,
        "loader threads per process",
        low=1,
        high=MOST_WORKERS,
        none="the usable cores, divided by the processes of this machine",
    )
    checksums: bool = option(
        True,
        "compare each sample's bytes with NAME.beton.xxh64 as they are read; `false`: check only tables and digests, "
        "before the first epoch",
        was=("data.verify",),
    )
    page_window: int = option(
        0,
        "0: shuffle all images; n: shuffle within n random pages (8 MB) at a time, for a set larger than memory",
        low=0,
        high=1 << 31,
    )
    augment: list[object] = option(
        [],
        "augmentations after crop and flip, a list in the YAML: classes of `ffcv.transforms` on the host, then of "
        "`torchvision.transforms.v2` on the device, each with its arguments",
        none="only crop and flip",
    )
    augmentations: tuple[Augmentation, ...] = dataclasses.field(init=False, repr=False, compare=False)
    train_images: int | None = option(
        None,
        "for `run.plan` and `training.estimate`: number of training images in each set",
        low=1,
        none="taken from the manifests; for the estimate, ImageNet's 1281167",
        was=("train_images",),
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "augmentations", read_augmentations(self.augment))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleOptions:
    """epochs, sizes, batches, learning rates"""

    phases: list[object] | None = option(None, "the phases, a list in the YAML", none="give `imagenet18`")
    imagenet18: str | None = option(
        None, "instead of `phases`: the same in the published one-line syntax", none="give `phases`"
    )
    gpus: int = option(
        1,
        "total number of GPUs that the learning rates are meant for; with another number, a note is printed",
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
class Dist:
    """processes and devices"""

    processes: int | None = option(
        None,
        "processes to start; under `torchrun`, torchrun decides",
        low=1,
        high=MOST_WORKERS,
        none="one per visible GPU, or 1 without GPUs",
    )
    device: Literal["auto", "cuda", "cpu"] = option("auto", "`cuda` or `cpu`; `auto`: GPUs if there are any")
    emulate_gpus: int | None = option(
        None,
        "keep the global batch of this many GPUs on fewer, by accumulating gradients",
        low=1,
        none="do not accumulate",
    )
    timeout_minutes: float = option(
        10.0, "give up when a process makes no progress for this long", low=0.05, high=43_200
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """what to do, and where the results go"""

    dir: Path = option(
        Path("runs/imagenet"),
        "run folder: `config.json`, `environment.json`, `epochs.csv`, `steps.csv`, events, checkpoints",
    )
    seed: int = option(0, "seed of weights, order, crops and flips", low=0, high=(1 << 63) - 1)
    resume: Literal["auto", "none"] | Path = option(
        "auto",
        "where to begin in a folder without a checkpoint of this run: at the start (`auto` or `none`), or at the "
        "checkpoint of this path; in a folder that has one, the run continues from that",
    )
    init_from: Path | None = option(
        None,
        "weights to begin with, for fine-tuning: a checkpoint, a `.pth` of torchvision's kind, or safetensors. "
        "If the classes differ, the fc layer is new. A run with a checkpoint in its folder continues from that",
        none="random weights",
    )
    accept_changes: tuple[str, ...] = option(
        (),
        "options that may differ from those of the checkpoint, comma-separated; the error message names them",
    )
    checkpoint_minutes: float = option(
        10.0, "minutes between checkpoints within an epoch; one is always written at its end", low=0
    )
    plan: bool = option(
        False, "print the schedule, a line per epoch, and stop", hint="a file for it is --run.plan_csv=FILE.csv"
    )
    plan_csv: Path | None = option(None, "write the schedule to this file, a row per batch, and stop", none="no file")
    eval_only: bool = option(False, "validate `run.checkpoint` as the last phase does, and stop")
    checkpoint: Path | None = option(
        None,
        "weights for `run.eval_only`: a checkpoint of this program or of torchvision, timm, Lightning and others, or "
        "safetensors",
        none="`run.eval_only` needs one",
    )
    eval_px: int | None = option(
        None, "for `run.eval_only`: size of the crop", low=8, high=4096, none="that of the last phase"
    )
    eval_rectangular: bool | None = option(
        None,
        "for `run.eval_only`: validate on rectangles, or on squares",
        none="as the last phase",
        was=("run.eval_rect",),
    )
    profile: bool = option(False, "write the torch profiler's trace of ten steps of each phase into the run folder")
    deterministic: bool = option(False, "get the same bits in every run on the same machine; slower on a GPU")

    def __post_init__(self) -> None:
        check(self)
        if self.eval_only and self.checkpoint is None:
            raise OptionError("needs --run.checkpoint=PATH", where="eval_only")
        if self.checkpoint is not None and not self.eval_only:
            raise OptionError(
                "only for --run.eval_only=true", where="checkpoint", remedy="to continue training use --run.resume=PATH"
            )
        if self.init_from is not None and (self.eval_only or self.resume not in ("auto", "none")):
            other = "eval_only" if self.eval_only else "resume"
            raise OptionError(
                f"cannot be combined with run.{other}", where="init_from", remedy="leave out one of the two"
            )
        for key in ("eval_px", "eval_rectangular"):
            if getattr(self, key) is not None and not self.eval_only:
                remedy = "a phase of the schedule has val_px and rectangular_val"
                raise OptionError("only for --run.eval_only=true", where=key, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """how to follow a run"""

    format: Literal["text", "json"] = option(
        "text",
        "format of standard output: `text`, a table of epochs; `json`, a line of JSON for each epoch and for progress",
        was=("run.log",),
    )
    seconds: float = option(
        30.0,
        "seconds between lines of progress; on a terminal, `text` shows a bar instead",
        low=0,
        was=("run.log_seconds",),
    )
    wandb: str | None = option(
        None,
        "project on Weights & Biases (`make env EXTRAS=wandb`; `WANDB_MODE=offline` works)",
        none="nothing is sent",
        hint="give the name of a project, or leave it out",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything a run depends on. Sections as on the command line: ``--section.key=value``."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = ELSEWHERE

    data: Data = Data()
    schedule: ScheduleOptions
    model: Model = Model()  # noqa: RUF009 - frozen
    train: Train = Train()  # noqa: RUF009 - frozen
    dist: Dist = Dist()
    run: Run = Run()
    log: Log = Log()

    def __post_init__(self) -> None:
        if self.schedule.parsed.momentum_ramps and self.train.momentum != Train().momentum:
            raise OptionError(
                "the schedule has ramps of momentum", where="train.momentum", remedy="change those of its phases"
            )

    def evaluated(self) -> Phase:
        """The phase that ``run.eval_only`` validates as: the last one, with the changes of ``run.eval_...``."""
        last, run = self.schedule.parsed.phases[-1], self.run
        px = last.val_px if run.eval_px is None else run.eval_px
        rectangular = last.rectangular_val if run.eval_rectangular is None else run.eval_rectangular
        resize = last.val_resize * px // last.val_px  # the same part of the image
        return replace(last, val_px=px, val_resize=resize, rectangular_val=rectangular)

    def betons(self) -> tuple[str, ...]:
        """Names of the betons that the run reads, each once: the schedule's, or the one of ``run.eval_only``."""
        return (f"val_{self.evaluated().val_data}",) if self.run.eval_only else self.schedule.parsed.betons()


def as_mapping(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The configuration as sections of plain values, for a file."""
    return {section.name: _plain(getattr(config, section.name)) for section in dataclasses.fields(RunConfig)}


def _plain(section: Any) -> dict[str, Any]:
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section) if field.init}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


DESCRIPTION = "Train a ResNet on ImageNet betons with a progressive schedule. Recipes: rn50_configs/*.yaml."


def from_argv(argv: Sequence[str], *, prog: str = "train_imagenet.py") -> RunConfig:
    """The configuration of a command line and its ``--config-file``. OptionError for a mistake."""
    return parse(RunConfig, argv, prog=prog, description=DESCRIPTION)
