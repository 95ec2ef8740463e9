"""Go once through everything, from generating data to exported weights, and compare the times with the estimate.

    python -m scripts.whole_run [--work bench/whole_run] [--recipe rn50_configs/aiacc8.yaml] [--gpu h200]

Generates a data set of 1,000 classes, converts it, trains the recipe with the options of a user, stops the training
twice with SIGTERM amid an epoch and continues it, validates, reports, exports, and validates the export in torchvision.
On a tenth of the images it also compares a training that was stopped with one that was not, bit for bit.

What is done is recorded in --work. When --minutes are over it stops, with exit status 75; the same command continues.
Prints the table of what is known so far, and writes it to --work. --stand-in uses the CPU and 1/500 of the images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.errors import UserError, program
from data_tools.common.files import write_atomically
from scripts.gpu_acceptance import ROOT, environment_of, kill, start
from scripts.whole_run_report import predict, table
from training.config.run_config import RunConfig, from_argv
from training.config.schedule import batches_per_epoch
from training.runlog.epoch_table import EpochRow, read_epochs

CALL_AGAIN = 75
STOPS = 2
AMID = 0.4  # of an epoch's time, when it is stopped
SAVING_S = 20.0  # left for a training to save before the time is over
STOPPED_STATUSES = (0, CALL_AGAIN, -signal.SIGTERM)  # the last before it is loaded
STOPPED = re.compile(r"stopped at batch (\d+) of epoch (\d+)")


class OutOfTime(Exception):
    """The time is over; what is not done is done by the next call."""


class Failed(Exception):
    """A part failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do, on how many images; ``card`` is that of the estimate, None if the steps are to be measured."""

    work: Path
    recipe: Path
    card: str | None
    stand_in: bool
    train: int = 256_000
    val: int = 10_000
    classes: int = 1000

    @property
    def config(self) -> RunConfig:
        return from_argv(["--config-file", str(self.recipe)])

    @property
    def gpus(self) -> int:
        """GPUs whose batch one process has."""
        return self.config.schedule.gpus

    @property
    def small(self) -> int:
        """Training images of the smaller set: a tenth, but some batches."""
        return max(self.train // 10, 4 * self.gpus * max(p.batch_per_gpu for p in self.config.schedule.phases))

    @property
    def caps(self) -> str:
        """The sets of the recipe."""
        caps = (cap for phase in self.config.schedule.phases for cap in (phase.data, phase.val_data))
        return ",".join(dict.fromkeys(caps))

    def check(self, record: dict[str, Any]) -> None:
        """UserError if ``record`` has parts of another plan, whose results would be taken for this one's; notes this
        one in a new record."""
        own = {key: getattr(self, key) for key in ("train", "val", "classes", "small", "caps", "card", "stand_in")}
        known = record.setdefault("plan", own)
        if differing := ", ".join(f"{key} {known[key]}, not {own[key]}" for key in own if known[key] != own[key]):
            raise UserError(f"has parts of another run ({differing})", where=self.work, remedy="give another --work")

    def options(self, betons: str) -> list[str]:
        """Of a training on one GPU or CPU."""
        emulated = [f"--dist.emulate_gpus={self.gpus}"] if self.gpus > 1 else []
        return ["--config-file", str(self.recipe), f"--data.dir={self.work / betons}", "--dist.processes=1", *emulated]


class WholeRun:
    """Does the parts of ``plan`` that ``record`` does not have, until ``deadline`` (of time.monotonic)."""

    def __init__(self, plan: Plan, deadline: float) -> None:
        self.plan, self.deadline = plan, deadline
        self.environment = environment_of(plan.stand_in)
        self.path = plan.work / "record.json"
        self.record: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def log(self, name: str) -> Path:
        return self.plan.work / f"{name.replace(' ', '_')}.log"

    def keep(self, name: str, entry: Any) -> None:
        self.record[name] = entry
        write_atomically(self.path, json.dumps(self.record, indent=1).encode())
        print(f"{name}: {json.dumps(entry)[:200]}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------------------------------------------ a command
    def part(self, name: str, *command: str, statuses: Sequence[int] = (0,)) -> None:
        """Run a program of the project, unless that was done. Failed if its exit status is another."""
        if name in self.record:
            return
        began = time.monotonic()
        with self.log(name).open("w") as output:
            process = start(command, self.environment, output)
            try:
                status = process.wait(max(0.0, self.deadline - began))
            except subprocess.TimeoutExpired:
                raise OutOfTime from None
            finally:
                kill(process)
        if status not in statuses:
            raise Failed(f"{name}: exit status {status}; see {self.log(name)}")
        self.keep(name, {"seconds": round(time.monotonic() - began, 1), "exit": status, "said": self.said(name)})

    def said(self, name: str) -> Any:
        """The last line of a part's output, or the JSON in it."""
        lines = self.log(name).read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return found[-1] if found else lines[-1] if lines else ""

    # ------------------------------------------------------------------------------------------------ a training
    def train(self, name: str, run_dir: Path, betons: str, images: int, *more: str, stops: int = STOPS) -> None:
        """Train to the end, and stop amid an epoch ``stops`` times on the way."""
        command = ["-m", "train_imagenet", *self.plan.options(betons), f"--run.dir={run_dir}", *more]
        entry = self.record.get(name, {"starts": [], "memory_gib": {}})
        while not entry["starts"] or entry["starts"][-1]["exit"] != 0:
            if time.monotonic() > self.deadline - SAVING_S:
                raise OutOfTime
            began, at = time.monotonic(), self.log(name).stat().st_size if self.log(name).exists() else 0
            left = stops - sum(each["amid"] for each in entry["starts"])
            with self.log(name).open("a") as output:
                process = start(command, self.environment, output)
                try:
                    self.watch(process, run_dir, left, stops, entry["memory_gib"])
                finally:
                    kill(process)
            where = STOPPED.search(self.log(name).read_text()[at:])
            amid = where is not None and 0 < int(where[1]) < self.batches(int(where[2]) - 1, images)
            seconds, end = round(time.monotonic() - began, 1), where[0] if where else ""
            entry["starts"].append({"seconds": seconds, "exit": process.returncode, "amid": amid, "end": end})
            self.keep(name, entry)
            if time.monotonic() < self.deadline and process.returncode not in STOPPED_STATUSES:
                raise Failed(f"{name}: exit status {process.returncode}; see {self.log(name)}")

    def batches(self, epoch: int, images: int) -> int:
        return batches_per_epoch(images, self.plan.config.schedule.phase(epoch).batch_per_gpu, self.plan.gpus)

    def watch(
        self, process: subprocess.Popen[bytes], run_dir: Path, left: int, stops: int, memory: dict[str, float]
    ) -> None:
        """Wait for a training, and stop it amid an epoch if stops are ``left``, or when the time is over; ``memory``
        gets the most that it had in each epoch."""
        begun, moment, told = len(read_epochs(run_dir)), float("inf"), False
        target = self.plan.config.schedule.epochs * (stops - left + 1) // (stops + 1)
        while process.poll() is None:
            rows, now = read_epochs(run_dir), time.monotonic()
            epoch = str(len(rows) + 1)
            memory[epoch] = max(memory.get(epoch, 0.0), resident_gib(process.pid))
            if left and len(rows) > begun and len(rows) >= target and moment == float("inf"):
                moment = now + AMID * seconds_of_last(rows)
            if not told and now >= min(moment, self.deadline - SAVING_S):
                process.terminate()
                told = True
            if now >= self.deadline:
                return
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------------------ everything
    def data(self, name: str, train: int, val: int) -> None:
        """Generate images and convert them to the sets of the recipe."""
        tar, betons = self.plan.work / f"{name}.tar", self.plan.work / name
        counts = [f"--classes={self.plan.classes}", f"--train={train}", f"--val={val}"]
        self.part(f"generate {name}", "-m", "data_tools.sample", str(tar), *counts)
        sets = ["-m", "write_datasets", f"--data.source={tar}", f"--data.out={betons}", f"--data.caps={self.plan.caps}"]
        self.part(f"convert {name}", *sets)
        tar.unlink(missing_ok=True)  # the disk may be small

    def run(self) -> None:
        """All parts in order. OutOfTime, or Failed."""
        plan, recipe = self.plan, self.plan.recipe.stem
        plan.check(self.record)
        run_dir, weights = plan.work / recipe, str(plan.work / recipe / "last.pt")
        if f"predict {recipe}" not in self.record:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                predicted = pool.submit(predict, plan.recipe, plan.card, plan.train, plan.val, plan.gpus).result()
            self.keep(f"predict {recipe}", predicted)
        self.data("betons", plan.train, plan.val)
        self.train(f"train {recipe}", run_dir, "betons", plan.train)
        options = [*plan.options("betons"), "--log.format=json"]
        self.part(f"validate {recipe}", "-m", "training.evaluate", weights, *options)
        self.part(f"report {recipe}", "-m", "training.report", str(run_dir))
        self.part(f"export {recipe}", "-m", "training.export", weights, "--to", "torchvision")
        exported = str(run_dir / "last.pth")
        self.part(f"torchvision {recipe}", "-m", "scripts.torchvision_scores", exported, *options)
        self.data("small", plan.small, max(plan.val // 10, plan.classes))
        pair = [plan.work / f"{recipe}_undisturbed", plan.work / f"{recipe}_continued"]
        for folder, stops in zip(pair, (0, STOPS), strict=True):
            self.train(f"train {folder.name}", folder, "small", plan.small, "--run.deterministic=true", stops=stops)
        self.part(f"compare {recipe}", "-m", "training.compare", *map(str, pair), statuses=(0, 1))


def seconds_of_last(rows: Sequence[EpochRow]) -> float:
    """Training and validation of the last epoch."""
    return 3600 * (rows[-1].hours - (rows[-2].hours if len(rows) > 1 else 0.0))


def resident_gib(process: int) -> float:
    """Memory of a process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 2**20 if found else 0.0


@program("scripts.whole_run")
def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "bench/whole_run", help="folder for everything")
    parser.add_argument("--recipe", type=Path, help="recipe [aiacc8, with --stand-in cpu_demo]")
    parser.add_argument("--gpu", help="card in the table of training.estimate; otherwise its --measure is used")
    parser.add_argument("--minutes", type=float, default=8.8, help="time limit of this call [8.8]")
    parser.add_argument("--stand-in", action="store_true", help="use the CPU and 1/500 of the images")
    options = parser.parse_args(argv)
    recipe = options.recipe or ROOT / "rn50_configs" / ("cpu_demo.yaml" if options.stand_in else "aiacc8.yaml")
    images = {"train": 512, "val": 108, "classes": 27} if options.stand_in else {}
    work = options.work.resolve()
    plan = Plan(work=work, recipe=recipe.resolve(), card=options.gpu, stand_in=options.stand_in, **images)
    work.mkdir(parents=True, exist_ok=True)
    whole, status = WholeRun(plan, time.monotonic() + 60 * options.minutes), 0
    try:
        whole.run()
    except OutOfTime:
        status = CALL_AGAIN
        print("out of time; the same command continues", file=sys.stderr)
    except Failed as failure:
        status = 1
        print(failure, file=sys.stderr)
    text = "\n".join(table(whole.record, plan.recipe.stem, work))
    write_atomically(work / f"{plan.recipe.stem}.md", f"{text}\n".encode())
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
