"""The table of a run's epochs: its rows, its file ``epochs.csv``, and its lines on the console."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.runlog.csv_log import numbers, read_table

EPOCHS = "epochs.csv"
CONFIG = "config.json"
TOP5_CLASSES = 25  # up to here a guess has one chance in five or better


def tells_top5(classes: int) -> bool:
    """Whether top-5 tells good weights from bad ones with so many classes."""
    return classes > TOP5_CLASSES


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """``top1`` and ``top5`` of ``images`` images in percent; ``loss`` is the mean over the ``finite`` ones whose batch
    had a finite loss."""

    images: int
    finite: int
    loss: float
    top1: float
    top5: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of one process over an epoch's training: ``data_wait_percent`` is the share of time that the device waited for
    images, ``host_wait_percent`` the share that the host waited for the loader (on a GPU possibly while the device is
    busy), ``tflops`` what the model needs, ``mfu_percent`` its share of the card's peak."""

    images_per_s_per_gpu: float
    data_wait_percent: float
    host_wait_percent: float
    step_p50_ms: float
    step_p99_ms: float
    gpu_memory_gib: float
    tflops: float
    mfu_percent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow(Speed):
    """``epoch`` counts completed epochs from 1, as the published table does; ``hours`` is the clock of training and
    validation; ``lr`` is that of the epoch's last batch; ``images_per_s`` and ``global_batch`` are the whole job's; the
    scores of averaged weights are nan if there are none."""

    epoch: int
    hours: float
    top1: float
    top5: float
    train_loss: float
    lr: float
    images_per_s: float
    px: int
    global_batch: int
    ema_top1: float
    ema_top5: float
    val_loss: float

    def cells(self) -> list[str]:
        """As in ``epochs.csv``."""
        return [str(value) if isinstance(value, int) else f"{value:.8g}" for value in self.flat().values()]

    def flat(self) -> dict[str, float]:
        """The values by :data:`COLUMNS`."""
        return {column: getattr(self, column) for column in COLUMNS}


@dataclass(frozen=True, kw_only=True, slots=True)
class PastEpoch:
    """A complete epoch as the checkpoint keeps it: its ``line`` of ``epochs.csv``, after how many images and when it
    ended, and how long it was validated."""

    line: str
    images_seen: int
    ended: float
    eval_seconds: float

    @property
    def row(self) -> EpochRow:
        return EpochRow(**numbers(dict(zip(COLUMNS, self.line.split(","), strict=True))))

    @property
    def scalars(self) -> dict[str, float]:
        """What TensorBoard gets of it."""
        return {
            "losses/test_1": self.row.top1,
            "losses/test_5": self.row.top5,
            "losses/test_xent": self.row.val_loss,
            "times/eval_sec": self.eval_seconds,
        }


COLUMNS = [*EpochRow.__annotations__, *Speed.__annotations__]  # of ``epochs.csv``


def format_number(value: float, form: str) -> str:
    """``value`` in the format ``form``, or ``n/a`` where there is none."""
    return format(value, form) if math.isfinite(value) else "n/a"


def validation_images(images: Mapping[str, int]) -> int:
    """Images that an epoch is validated on, of the ``images`` of each set (``val_160``, ...)."""
    return max(count for name, count in images.items() if name.startswith("val_"))


def score_digits(images: int) -> int:
    """Decimals of a score in percent over ``images`` images: enough to tell one image more or less."""
    return max(0, math.ceil(math.log10(max(images, 1) / 100)))


def time_unit(hours: float) -> tuple[str, float]:
    """The unit for a time of ``hours``, and how many of it an hour has: a short run has too many zeros in hours."""
    return ("hours", 1.0) if hours >= 0.1 else ("minutes", 60.0) if hours >= 1 / 60 else ("seconds", 3600.0)


def duration(hours: float) -> str:
    """A time in words: ``2.3657 h``, ``4.50 min``, ``12.3 s``."""
    unit, an_hour = time_unit(hours)
    name, digits = {"hours": ("h", 4), "minutes": ("min", 2), "seconds": ("s", 1)}[unit]
    return f"{hours * an_hour:.{digits}f} {name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochTable:
    """How epochs are printed: scores over ``images`` validation images, times in ``unit``, of which an hour has
    ``an_hour``."""

    images: int
    unit: str = "hours"
    an_hour: float = 1.0

    @property
    def heading(self) -> str:
        return f"{'epoch':>5} {self.unit:>8} {'top1':>8} {'top5':>8} {'loss':>8} {'lr':>9} {'img/s':>8} {'px':>4}"

    def time(self, row: EpochRow) -> str:
        return f"{row.hours * self.an_hour:.{4 if self.unit == 'hours' else 2}f}"

    def score(self, value: float) -> str:
        return f"{value:.{score_digits(self.images)}f}"

    def line(self, row: EpochRow) -> str:
        loss, images_per_s = format_number(row.train_loss, ".4f"), format_number(row.images_per_s, ".0f")
        return (
            f"{row.epoch:>5} {self.time(row):>8} {self.score(row.top1):>8} {self.score(row.top5):>8} {loss:>8} "
            f"{row.lr:>9.6f} {images_per_s:>8} {row.px:>4}"
        )


def read_epochs(run_dir: Path) -> list[EpochRow]:
    """The rows of a run folder's ``epochs.csv``; none if there is no such file. OptionError if it is damaged."""
    path = run_dir / EPOCHS
    return [EpochRow(**each) for each in read_table(path, COLUMNS)] if path.is_file() else []
