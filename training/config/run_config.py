"""The configuration of a training run: frozen, typed, checked on construction; from YAML, argv or code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from data_tools.common.options import OptionError, Section, parse
from training.config.augmentations import DEVICE, HOST, Augmentation
from training.config.schedule import Schedule
from training.config.train_config import Model, Train

# More than the cores of any machine; many more threads than cores only wait, and fail to start once memory is taken.
MOST_WORKERS = 1024


class Data(Section):
    """where the betons are and how they are read"""

    dir: Path = Field(Path("data/beton"), description="the folder that `write_datasets.py` wrote")
    workers: int | None = Field(
        None,
        ge=1,
        le=MOST_WORKERS,
        description="loader threads per process; by default the usable cores, divided by the processes of this machine",
    )
    checksums: bool = Field(
        True,
        description="compare each sample with its checksum as it is read; `false`: check only tables and digests, "
        "before the first epoch",
    )
    page_window: int | None = Field(
        None,
        ge=1,
        le=1 << 31,
        description="shuffle within this many random pages (8 MB) at a time, for a set larger than memory; by default "
        "all images",
    )
    augment: tuple[Augmentation, ...] = Field(
        (),
        description="augmentations after crop and flip, a list in the YAML: classes of `ffcv.transforms`, then of "
        "`torchvision.transforms.v2` on the device, with their arguments; by default none",
    )

    @field_validator("augment")
    @classmethod
    def _host_comes_first(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        places = [each.on_host for each in augment]
        if places != sorted(places, reverse=True):
            raise OptionError(f"those of {HOST} work on the host and must come before those of {DEVICE}")
        return augment


class Dist(Section):
    """processes and devices"""

    processes: int | None = Field(
        None,
        ge=1,
        le=MOST_WORKERS,
        description="processes to start; by default one per visible GPU, or 1; under `torchrun`, torchrun decides",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="`cuda` or `cpu`; `auto`: GPUs if there are any, else the CPU, unless that takes over a week",
    )
    emulate_gpus: int | None = Field(
        None,
        ge=1,
        description="keep the global batch of this many GPUs on fewer, by accumulating gradients; by default off",
    )
    timeout_minutes: float = Field(
        10.0, ge=0.05, le=43_200, description="give up when a process makes no progress for this long"
    )


class Run(Section):
    """what to do, and where the results go"""

    dir: Path = Field(
        Path("runs/imagenet"),
        description="folder for tables, events and checkpoints",
    )
    seed: int = Field(0, ge=0, le=(1 << 63) - 1, description="seed of weights, order, crops and flips")
    init_from: Path | None = Field(
        None,
        description="weights to begin with, for fine-tuning: a checkpoint, a `.pth` of torchvision's kind, or "
        "safetensors; by default random weights. If the classes differ, the last layer is new. Read only when a run "
        "begins",
    )
    accept_changes: bool = Field(False, description="continue although options that change the result differ")
    checkpoint_minutes: float = Field(10.0, ge=0, description="minutes between checkpoints within an epoch")
    profile: bool = Field(False, description="write torch's profile of ten steps of each phase into the run folder")
    deterministic: bool = Field(
        False, description="get the same bits in every run on the same machine; slower on a GPU"
    )


class Log(Section):
    """how to follow a run"""

    format: Literal["text", "json"] = Field(
        "text",
        description="standard output: `text`, a table of epochs; `json`, a line of JSON for each epoch and for "
        "progress",
    )
    seconds: float = Field(
        30.0, ge=0, description="seconds between lines of progress; on a terminal, `text` shows a bar instead"
    )
    wandb: str | None = Field(
        None,
        description="project on Weights & Biases (needs `make env EXTRAS=wandb`); by default nothing is sent",
    )


class RunConfig(Section):
    """Everything a run depends on. Sections as on the command line: ``--section.key=value``."""

    data: Data = Data()
    schedule: Schedule
    model: Model = Model()
    train: Train = Train()
    dist: Dist = Dist()
    run: Run = Run()
    log: Log = Log()

    @model_validator(mode="after")
    def _have_one_momentum(self) -> Self:
        if self.schedule.momentum_ramps and self.train.momentum != Train().momentum:
            remedy = "change those of its phases"
            raise OptionError("the schedule has ramps of momentum", where="train.momentum", remedy=remedy)
        return self


def as_mapping(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The configuration as sections of plain values, for a file; `RunConfig` takes them."""
    return config.model_dump(mode="json", by_alias=True)


DESCRIPTION = "Train a network on ImageNet betons with a progressive schedule. Recipes: rn50_configs/*.yaml."


def from_argv(argv: Sequence[str]) -> RunConfig:
    """The configuration of a command line and its ``--config-file``. OptionError for a mistake."""
    return parse(RunConfig, argv, prog="train_imagenet.py", description=DESCRIPTION)
