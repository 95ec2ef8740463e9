"""Test and measure a machine with one GPU: the GPU tests, the speed of steps and of the whole path, the compile modes.

    python -m scripts.gpu_acceptance [--out bench/gpu] [--minutes 8.8] [--only PART ...]

Each part runs in a process of its own with a time limit, so that one that hangs does not hold up the others. Prints a
table, which also says what was not run, and writes acceptance.json and acceptance.log to --out. The exit status is 1 if
a part failed or a goal was missed. --stand-in uses the CPU instead of a GPU, for a short trial of this program; its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from data_tools.common.gpus import installed_gpus
from scripts.gpu_report import Result, goals, outcomes, table

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "torchvision", "triton", "ffcv", "numba", "numpy", "imagenet18-ffcv")
MINUTES = 8.8
BENCHMARK = "benchmarks/train_step.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A command for this Python with a time limit; ``rows``: a benchmark, which writes rows with --json.

    The commands in ``beside`` run at the same time; what they have not finished by the part's limit is dropped.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    rows: bool = False
    beside: tuple[tuple[str, ...], ...] = ()


def parts(work: Path, stand_in: bool) -> list[Part]:
    """The most important first: if time runs out, the last are not run."""
    train, val = (64, 12) if stand_in else (10_240, 1_000)
    quick = ("--rounds", "1", "--steps", "1") if stand_in else ("--rounds", "3")
    tests = ("tests/gpu", "-k", "fp32 or equal") if stand_in else ("tests/gpu",)
    sizes = ("128",) if stand_in else ("128", "288")
    compiled = () if stand_in else ("fp16", "cuda_graphs")
    sample, betons = work / "sample.tar", work / "betons"
    caps = "--data.caps=160,320,full"

    benchmark = partial(_benchmark, quick)
    found = [
        Part(
            name="sample",
            command=("-m", "data_tools.sample", str(sample), f"--train={train}", f"--val={val}"),
            seconds=90,
        ),
        Part(
            name="betons",
            command=("-m", "write_datasets", f"--data.source={sample}", f"--data.out={betons}", caps),
            seconds=90,
        ),
        # Nothing is timed in the tests, so meanwhile the steps are compiled into the caches on disk.
        Part(
            name="tests",
            command=("-m", "pytest", "-v", "-n", "6", "-p", "no:cacheprovider", "-o", "pythonpath=tests", *tests),
            seconds=200,
            beside=(
                (BENCHMARK, "--warm-up", "--px", "224", "--variants", "eager", *compiled),
                (BENCHMARK, "--warm-up", "--px", *sizes),
            ),
        ),
        benchmark("step 224", 224, 120, f"--betons={betons}"),
        *(benchmark(f"step {px}", int(px), 120, f"--betons={betons}") for px in sizes),
        benchmark("variants 224", 224, 120, "--variants", "eager", *compiled),
        *(() if stand_in else _norm_parts(quick)),
        *(() if stand_in else (benchmark("max-autotune 224", 224, 180, "--variants", "max_autotune"),)),
    ]
    return [replace(part, seconds=part.seconds * (10 if stand_in else 1)) for part in found]


def _benchmark(quick: tuple[str, ...], name: str, px: int, seconds: float, *more: str) -> Part:
    return Part(name=name, command=(BENCHMARK, "--px", str(px), *quick, *more), seconds=seconds, rows=True)


def _norm_parts(quick: tuple[str, ...]) -> list[Part]:
    """Our kernels of BatchNorm by themselves and in steps: 96 px as in aiacc8, 400 images as in NVIDIA's for MLPerf."""
    compared = ("--variants", "cuda_graphs", "own_norm", "own_norm_graphs")
    return [
        Part(name="kernels", command=("benchmarks/norm_kernels.py",), seconds=60, rows=True),
        _benchmark(quick, "variants 224, norm", 224, 180, *compared, "own_norm_fp16"),
        _benchmark(quick, "variants 96", 96, 180, *compared),
        _benchmark(quick, "variants 224 x 400", 224, 180, "--batch", "400", *compared),
    ]


def without_betons(part: Part) -> Part:
    """The steps alone, so that their speed is still measured if no betons could be made."""
    return replace(part, command=tuple(word for word in part.command if not word.startswith("--betons")))


def run(part: Part, deadline: float, log: Path, environment: dict[str, str]) -> Result:
    """Run a part until its time limit or ``deadline`` (of time.monotonic), whichever comes first."""
    began = time.monotonic()
    limit = min(part.seconds, deadline - began)
    if limit <= 0:
        return Result(name=part.name, status="not run: no time left")
    with tempfile.TemporaryDirectory() as folder, log.open("a+") as output:
        rows = Path(folder) / "rows.json"
        command = (*part.command, *(("--json", str(rows)) if part.rows else ()))
        print(f"\n== {part.name}: {' '.join(command)}", file=output, flush=True)
        at = output.tell()
        beside = [start(each, environment, subprocess.DEVNULL) for each in part.beside]
        process = start(command, environment, output)
        try:
            exit_status = process.wait(limit)
            status = "done" if exit_status == 0 else f"failed with exit status {exit_status}"
            for each in beside:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.wait(max(0, began + limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:  # also what they left running
            for each in (process, *beside):
                kill(each)
        output.seek(at)
        return Result(
            name=part.name,
            status=status,
            seconds=round(time.monotonic() - began, 1),
            tests=outcomes(output.read()) if "pytest" in part.command else None,
            rows=tuple(json.loads(rows.read_text())) if rows.exists() else (),
        )


def start(command: Sequence[str], environment: dict[str, str], output: IO[str] | int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment_of(stand_in: bool) -> dict[str, str]:
    """The project as installed, or this tree if its native code is built."""
    here = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive"}
    if any(ROOT.glob("data_tools/native/_native*.so")):
        here["PYTHONPATH"] = str(ROOT)
    return here | ({"GPU_TESTS_ON": "cpu", "CUDA_VISIBLE_DEVICES": ""} if stand_in else {})


def machine_of(stand_in: bool) -> dict[str, Any]:
    import torch.version

    found, _ = installed_gpus()
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device, driver = (found[0].name, found[0].driver) if found and not stand_in else ("CPU instead of a GPU", None)
    return {"device": device, "driver": driver, "cuda": torch.version.cuda, "versions": versions}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "gpu", help="folder for acceptance.json and acceptance.log"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time limit for everything [{MINUTES}]")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="run only these parts, in a second call if 9 minutes are too short"
    )
    parser.add_argument("--stand-in", action="store_true", help="use the CPU instead of a GPU, for a short trial")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * options.minutes
    machine = machine_of(options.stand_in)
    if machine["driver"] is None and not options.stand_in:
        parser.error("nvidia-smi lists no GPU here; --stand-in tries this program on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "acceptance.log"
    log.write_text("")
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as work:
        every = parts(Path(work), options.stand_in)
        if unknown := set(options.only or ()) - {part.name for part in every}:
            parser.error(f"--only: {', '.join(sorted(unknown))}: give some of {', '.join(each.name for each in every)}")
        for part in every:
            if options.only and part.name not in options.only:
                continue
            if not any(each.name == "betons" and each.status == "done" for each in results):
                part = without_betons(part)
            results.append(run(part, deadline, log, environment_of(options.stand_in)))
            print(f"{results[-1].name}: {results[-1].status}, {results[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            # Written after every part, so that no figure is lost if the program is killed.
            wanted = goals(results, on_gpu=not options.stand_in)
            record = {"machine": machine, "goals": [*map(asdict, wanted)], "parts": [*map(asdict, results)]}
            (options.out / "acceptance.json").write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(table(machine, results, wanted)))
    sound = all(each.status == "done" for each in results)
    return 0 if sound and (options.stand_in or all(goal.met for goal in wanted)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
