"""Run folders with known contents, made without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from helpers import ROOT
from training.config.run_config import as_mapping, from_argv
from training.runlog.csv_log import CsvLog
from training.runlog.epoch_table import COLUMNS, EPOCHS, EpochRow
from training.runlog.sessions import Session, write_sessions

SESSION = Session(
    started=datetime(2026, 3, 1, 8, tzinfo=UTC),
    from_epoch=0,
    from_hours=0.0,
    command="train_imagenet.py --config-file rn50_configs/titan8.yaml",
    commit=None,
    processes=8,
    gpus=("NVIDIA TITAN RTX",) * 8,
    driver="580.65",
    cpu="AMD EPYC 7742",
    cores=48,
    memory_gib=503.5,
    system="Linux",
    precision="float16",
    versions={"python": "3.12.1", "torch": "2.15.0"},
    decoder="libjpeg-turbo 3.0.1",
    classes=1000,
    images={"train_160": 1_281_167, "val_160": 50_000},
)


def rows(top5: Sequence[float], hours_an_epoch: float = 0.1) -> list[EpochRow]:
    """Epochs with these scores; top-1 is 20 below, and other columns are the epoch's number in their own way."""
    return [
        EpochRow(
            epoch=epoch,
            hours=hours_an_epoch * epoch,
            top1=score - 20,
            top5=score,
            train_loss=7 / epoch,
            val_loss=float("nan"),
            lr=2.0 / epoch,
            images_per_s=9000 - 1000 * (epoch // 2),
            px=128 if epoch < 14 else 224,
            global_batch=4096 if epoch < 14 else 1792,
            ema_top1=float("nan"),
            ema_top5=float("nan"),
            images_per_s_per_gpu=1000,
            data_wait_percent=0.5 * epoch,
            host_wait_percent=1,
            step_p50_ms=400,
            step_p99_ms=450 + epoch,
            gpu_memory_gib=20,
            tflops=24,
            mfu_percent=37,
        )
        for epoch, score in enumerate(top5, start=1)
    ]


def write_epochs(path: Path, epochs: Sequence[EpochRow]) -> None:
    """The table of a run's epochs, as the run writes it."""
    CsvLog(path / EPOCHS, COLUMNS).add(row.cells() for row in epochs)


def run_folder(
    path: Path,
    top5: Sequence[float],
    sessions: Sequence[Session] = (SESSION,),
    hours_an_epoch: float = 0.1,
    argv: Sequence[str] = (),
) -> Path:
    """A run of titan8 as it lies in ``path``."""
    path.mkdir(parents=True)
    write_epochs(path, rows(top5, hours_an_epoch))
    write_sessions(path, sessions)
    config = from_argv(["--config-file", str(ROOT / "rn50_configs/titan8.yaml"), *argv])
    (path / "config.json").write_text(json.dumps(as_mapping(config)))
    return path
