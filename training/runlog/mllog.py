"""The log that MLPerf's tools read, if ``log.mllog`` is given: a line per event, as for training 4.0's open division.

Its target is MLPerf's for ResNet-50, 75.9 % top-1. ``run_stop`` comes after the last epoch: the schedule continues
after the target is reached. A continued run continues the same file, without the epochs that are trained again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.common.files import append_whole, warn_on_write_error, write_atomically
from data_tools.common.options import OptionError
from training.config.run_config import RunConfig
from training.runlog.epoch_table import validation_images
from training.runlog.eta import WorkModel

TOKEN = ":::MLLOG "
TARGET_TOP1 = 0.759
# The checker wants a value of each. Nobody has submitted this, and what the page cache holds is left as it is.
SUBMISSION: dict[str, Any] = {
    "submission_benchmark": "resnet",
    "submission_division": "open",
    "submission_org": "none: not a submission",
    "submission_status": "research",
    "cache_clear": False,
}


class MlLog:
    """Appends events to ``path``; continues after epoch ``epoch``, batch ``batch`` (0: from the beginning).

    OptionError where the file cannot be written.
    """

    def __init__(self, path: Path, *, epoch: int, batch: int) -> None:
        self.path = path
        lines = list(_kept(path, epoch, batch))
        # The log of a run that began without one begins here.
        self._begun = any(_key(line) == "run_start" for line in lines)
        self._best = max((json.loads(line)["value"] for line in lines if _key(line) == "eval_accuracy"), default=0.0)
        text = "".join(TOKEN + line + "\n" for line in lines) if self._begun else ""
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise OptionError(f"cannot be written ({error.strerror})", where="log.mllog") from None
        if not self._begun:
            self._event("init_start", kind="INTERVAL_START")

    def epoch_begins(self, epoch: int, batch: int, facts: Mapping[str, Any]) -> None:
        """Epoch ``epoch``, counted from 1, begins, or continues after ``batch`` batches. Before the first of
        them come the ``facts`` of the run."""
        if not self._begun:
            for key, value in (SUBMISSION | dict(facts)).items():
                self._event(key, value)
            self._event("init_stop", kind="INTERVAL_END")
            self._event("run_start", kind="INTERVAL_START")
        if not (batch and self._begun):
            self._event("epoch_start", kind="INTERVAL_START", epoch_num=epoch)
        self._begun = True

    def validation_begins(self, epoch: int) -> None:
        self._event("epoch_stop", kind="INTERVAL_END", epoch_num=epoch)
        self._event("eval_start", kind="INTERVAL_START", epoch_num=epoch)

    def epoch_done(self, epoch: int, top1: float, last: bool) -> None:
        """Epoch ``epoch`` is validated, with ``top1`` percent; ``last``: the run is complete."""
        self._best = max(self._best, top1 / 100)
        self._event("eval_accuracy", top1 / 100, epoch_num=epoch)
        self._event("eval_stop", kind="INTERVAL_END", epoch_num=epoch)
        if last:
            status = "success" if self._best >= TARGET_TOP1 else "aborted"
            self._event("run_stop", kind="INTERVAL_END", epoch_num=epoch, status=status)

    def _event(self, key: str, value: Any = None, kind: str = "POINT_IN_TIME", **metadata: Any) -> None:
        entry = {"namespace": "", "time_ms": round(1000 * time.time()), "event_type": kind, "key": key, "value": value}
        line = json.dumps(entry | {"metadata": {"file": "training/runlog/mllog.py", "lineno": 0, **metadata}})
        with warn_on_write_error("the MLPerf log"):
            append_whole(self.path, f"{TOKEN}{line}\n".encode())


def facts(config: RunConfig, work: WorkModel, platform: str) -> dict[str, Any]:
    """What MLPerf wants to know of a run: sizes, seed and optimizer."""
    first, ramps = work.schedule.phases[0], work.schedule.lr_ramps
    return {
        "submission_platform": platform,
        "train_samples": work.images[f"train_{first.data}"],
        "eval_samples": validation_images(work.images),
        "global_batch_size": first.batch_per_gpu * work.gpus,
        "seed": config.run.seed,
        "opt_name": "sgd",
        "opt_base_learning_rate": max(rate for ramp in ramps for rate in (ramp.first, ramp.last)),
        "opt_weight_decay": config.train.weight_decay,
    }


def _key(line: str) -> str:
    return str(json.loads(line)["key"])


def _kept(path: Path, epoch: int, batch: int) -> Iterator[str]:
    """The events of a log up to epoch ``epoch``, and the beginning of the next if ``batch`` batches of it are done;
    none of a run that begins anew, and no end, since the run goes on. OptionError for a file that holds anything else.

    A last line without its end is left out: the machine stopped, or the disk was full, while it was written."""
    if not (path.is_file() or path.is_dir()):  # nothing, or a device or a pipe, which keeps nothing and may never end
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot be read ({error})", where="log.mllog") from None
    whole, _, torn = text.rpartition("\n")
    if not torn.startswith(TOKEN[: len(torn)]):
        whole = text  # of another file
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            event = json.loads(line.removeprefix(TOKEN))
            done, key = event["metadata"].get("epoch_num", 0), event["key"]
        except (ValueError, TypeError, KeyError):
            remedy = "give another file, or remove it"
            what = f"{path} exists, and its line {number} is not an MLPerf event"
            raise OptionError(what, where="log.mllog", remedy=remedy) from None
        is_of_next = batch and done == epoch + 1 and key == "epoch_start"
        if (epoch or batch) and (done <= epoch or is_of_next) and key != "run_stop":
            yield line.removeprefix(TOKEN)
