"""Test whether training with this project gives the same accuracy as training with plain torchvision.

    python benchmarks/equivalence.py [--source TAR] [--recipe FILE] [--seeds N] [--jobs N] [--results FILE]
                                     [--work DIR] [--minutes M]

Both sides train benchmarks/equivalence.yaml on the same photographs, once per seed, alternating. `ours` is what
users run: write_datasets.py, then train_imagenet.py. `torchvision` is plain_training.py: the original files, PIL,
ImageFolder, torchvision's crops, DataLoader, and a loop of its own. The question is whether the mean top-1 of the two
differs by less than MARGIN points; two one-sided tests of Welch's t answer it.

Each training runs in a process of its own, on its share of the cores. Its scores are added to the results file, a line
of JSON each, and an interrupted benchmark continues from there. All results of a file have one setting: commit, betons,
processor, versions, and the date of the first; a file with several is refused.

With --minutes, no training is started that would end later, by the longest of its side so far. Exit status 75 then says
that trainings remain; the same command continues. With --work, images and betons are made by the first call only.
benchmarks/equivalence_rn50.yaml is a recipe for a GPU, where `ours` is compiled, in bf16:

    python benchmarks/equivalence.py --recipe benchmarks/equivalence_rn50.yaml --seeds 8 --minutes 9 --work DIR
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import platform
import queue
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from equivalence_report import ARMS, report

from data_tools.beton.manifest import read_manifest
from data_tools.common.gpus import installed_gpus
from data_tools.common.resources import usable_cores
from training.config.run_config import from_argv
from training.runlog.epoch_table import read_epochs

ROOT = Path(__file__).resolve().parents[1]
# Set before the final run. In a pilot of 3 seeds each, top-1 had a pooled deviation of 0.78, with 95 % confidence below
# 1.84. With that, 16 are needed for 80 % power if both sides are the same (tost.values_needed).
SEEDS = 16
# Every VAL_EVERY-th training image of a class is used for validation instead, in addition to the tar's own validation
# images: over few images, top-1 varies a lot from seed to seed.
VAL_EVERY = 2
Result = dict[str, Any]


def main(argv: list[str]) -> int:
    began = time.monotonic()
    options = arguments(argv)
    options.end = began + 60 * options.minutes
    setting = setting_of(options)
    results = read_results(options.results, setting)
    if waiting := waiting_pairs(options.seeds, results):
        with tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work) as work:
            _train_all(waiting, Path(work).resolve(), options, setting, results)
    if waiting := waiting_pairs(options.seeds, results):
        longest = max((result["seconds"] for result in results), default=0)
        remain = f"{len(waiting)} of {len(ARMS) * options.seeds} trainings remain"
        print(f"{remain}, the longest so far took {longest:.0f} s; the same command continues", file=sys.stderr)
        return os.EX_TEMPFAIL
    setting = results[0]["setting"]
    print(report([result for result in results if result["seed"] < options.seeds], setting))
    return 0


def waiting_pairs(seeds: int, results: list[Result]) -> list[tuple[str, int]]:
    """Side and seed of each training that is not in ``results``; sides alternate, and so does which comes first."""
    done = {(result["arm"], result["seed"]) for result in results}
    pairs = [(arm, seed) for seed in range(seeds) for arm in ARMS[:: -1 if seed % 2 else 1]]
    return [pair for pair in pairs if pair not in done]


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared/data/clothing-sorted.tar"
    parser.add_argument("--source", type=Path, default=shared, help="a sorted tar of photographs")
    parser.add_argument("--recipe", type=Path, default=ROOT / "benchmarks/equivalence.yaml", help="recipe")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of trainings per side [{SEEDS}]")
    parser.add_argument("--jobs", type=int, default=1, help="trainings to run at once, sharing the cores [1]")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one [auto]"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "bench/equivalence.jsonl", help="file to append scores to"
    )
    parser.add_argument("--work", type=Path, help="folder to keep, with images and betons; by default a temporary one")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training that would end later")
    options = parser.parse_args(argv)
    if not options.source.is_file():
        parser.error(f"{options.source}: no such file; give --source a sorted tar of photographs")
    if not 1 <= options.jobs <= usable_cores():
        parser.error(f"--jobs {options.jobs}: give 1 to {usable_cores()}, the cores here")
    if options.seeds < 2:
        parser.error("--seeds: give 2 or more; one result has no deviation")
    if not options.recipe.is_file():
        parser.error(f"--recipe {options.recipe}: no such file")
    options.recipe = options.recipe.resolve()  # the programs run in another folder
    has_gpu = bool(installed_gpus()[0])
    if options.device == "cuda" and not has_gpu:
        parser.error("--device cuda: nvidia-smi lists no GPU here")
    if options.device == "auto":
        options.device = "cuda" if has_gpu else "cpu"
    return options


def setting_of(options: argparse.Namespace) -> Result:
    """What all results of a comparison must have in common, but for the betons, which may not be there yet."""
    packages = ("torch", "torchvision", "ffcv", "pillow", "numpy")
    return {
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "recipe": hashlib.sha256(options.recipe.read_bytes()).hexdigest(),
        "source": hashlib.sha256(options.source.read_bytes()).hexdigest(),
        "val_every": VAL_EVERY,
        "device": options.device,
        "machine": installed_gpus()[0][0].name if options.device == "cuda" else processor(),
        "versions": {"Python": platform.python_version()} | {package: version(package) for package in packages},
    }


def commit() -> str:
    """The checked-out commit of this project; with "-dirty" if a file is not as it was committed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def processor() -> str:
    """Its name, family, model and stepping: under one name go several, whose sums differ in the last bits."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    of = {key.strip(): value.strip() for key, _, value in lines}
    name = of.get("model name", platform.machine())
    return " ".join([name, *(f"{key} {of[key]}" for key in ("cpu family", "model", "stepping") if key in of)])


def beton_digests(folder: Path) -> dict[str, str]:
    return {path.stem: read_manifest(path).digest for path in sorted(folder.glob("*.beton"))}


def read_results(path: Path, setting: Result) -> list[Result]:
    """Results of finished trainings, all with one setting; ``setting`` gets its date.

    SystemExit if they have several, or another than ``setting``.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    results: list[Result] = [json.loads(line) for line in lines]
    if results:
        setting["date"] = results[0]["setting"].get("date")  # of the first: to continue takes as long as it takes
    for result in results:
        keys = setting.keys() | results[0]["setting"].keys()
        wanted = results[0]["setting"] | setting
        if differ := sorted(key for key in keys if result["setting"].get(key) != wanted[key]):
            raise SystemExit(f"{path}: seed {result['seed']} had another {', '.join(differ)}; give other --results")
    return results


def _train_all(
    waiting: list[tuple[str, int]], work: Path, options: argparse.Namespace, setting: Result, results: list[Result]
) -> None:
    """Add the results of ``waiting`` to ``results`` and to their file, of those for which there is time."""
    setting["betons"] = beton_digests(prepare_once(options, work, setting) / "betons")
    read_results(options.results, setting)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for job in range(options.jobs):
        shares.put(cores[job :: options.jobs])

    def train(pair: tuple[str, int]) -> None:
        arm, seed = pair
        if time.monotonic() + seconds_expected(arm, results) > options.end:
            return
        share, began = shares.get(), time.time()
        try:
            scores = (_ours if arm == "ours" else _torchvision)(options, work, seed, share)
        finally:
            shares.put(share)
        result = {"arm": arm, "seed": seed, **scores, "seconds": round(time.time() - began, 1), "setting": setting}
        with options.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        results.append(result)
        print(
            f"{arm}, seed {seed}: {scores['top1']:.2f} % top-1, {result['seconds']:.0f} s", file=sys.stderr, flush=True
        )

    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            list(pool.map(train, waiting))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def seconds_expected(arm: str, results: list[Result]) -> float:
    """The longest training of ``arm`` so far; before its first, of the other side."""
    same = [result["seconds"] for result in results if result["arm"] == arm]
    return max(same or [result["seconds"] for result in results], default=0.0)


def caps_of(recipe: Path) -> str:
    """The sets that a recipe reads, as the option of write_datasets.py has them."""
    phases = from_argv(["--config-file", str(recipe)]).schedule.phases
    return ",".join({cap: None for phase in phases for cap in (phase.data, phase.val_data)})


def prepare_once(options: argparse.Namespace, work: Path, setting: Result) -> Path:
    """The folder in ``work`` with what both sides read. SystemExit if it was made of something else."""
    data, partial = work / "data", work / "data.partial"
    made_of = {key: setting[key] for key in ("commit", "source", "val_every")} | {"caps": caps_of(options.recipe)}
    record = data / "made_of.json"
    if not data.exists():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        prepare(options.source, made_of["caps"], partial)
        (partial / record.name).write_text(json.dumps(made_of))
        partial.rename(data)
    found = json.loads(record.read_text()) if record.exists() else {}
    if differ := sorted(key for key in made_of if found.get(key) != made_of[key]):
        raise SystemExit(f"{data}: made of another {', '.join(differ)}; give another --work")
    return data


def prepare(source: Path, caps: str, work: Path) -> None:
    """The photographs with the split of VAL_EVERY, as files for torchvision and as betons for us."""
    seen: Counter[str] = Counter()
    with tarfile.open(source) as tar, tarfile.open(work / "split.tar", "w") as out:
        for info in sorted((info for info in tar if info.isfile()), key=lambda info: info.name):
            folder, label, name = info.name.split("/")[-3:]
            seen[label] += folder == "train"
            split = "val" if folder != "train" or seen[label] % VAL_EVERY == 0 else "train"
            data = tar.extractfile(info).read()  # type: ignore[union-attr]
            path = work / "images" / split / label / f"{folder}-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            new = tarfile.TarInfo(f"raw-data/{'train' if split == 'train' else 'validation'}/{label}/{path.name}")
            new.size = len(data)
            out.addfile(new, io.BytesIO(data))
    convert(work, caps, "betons")


def convert(work: Path, caps: str, out: str, *options: str) -> None:
    """Betons of what `prepare` made, in the folder ``out`` of ``work``."""
    command = ["write_datasets.py", f"--data.source={work}/split.tar", f"--data.out={work / out}"]
    _run([*command, f"--data.caps={caps}", *options], work / f"{out}.log", sorted(os.sched_getaffinity(0)))


def _ours(options: argparse.Namespace, work: Path, seed: int, cores: list[int]) -> Result:
    folder = work / f"ours_{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a training that did not end, which would continue
    command = ["train_imagenet.py", f"--config-file={options.recipe}", f"--data.dir={work}/data/betons"]
    command += [f"--run.dir={folder}", f"--run.seed={seed}", f"--dist.device={options.device}", "--dist.processes=1"]
    _run(command, work / f"ours_{seed}.log", cores)
    last = read_epochs(folder)[-1]
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()
    return {"top1": last.top1, "top5": last.top5, "train_loss": last.train_loss}


def _torchvision(options: argparse.Namespace, work: Path, seed: int, cores: list[int]) -> Result:
    out = work / f"torchvision_{seed}.json"
    command = ["benchmarks/plain_training.py", str(options.recipe), str(work / "data/images"), f"--out={out}"]
    command += [f"--seed={seed}", f"--device={options.device}", f"--workers={len(cores) if len(cores) > 1 else 0}"]
    _run(command, work / f"torchvision_{seed}.log", cores)
    scores: Result = json.loads(out.read_text())
    return scores


def _run(command: list[str], log: Path, cores: list[int]) -> None:
    """Run a program of this project on ``cores``. SystemExit with the end of its output if it fails."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(len(cores)),
        "OMP_WAIT_POLICY": "passive",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        os.sched_setaffinity(process.pid, cores)  # before it counts them
        try:
            status = process.wait()
        finally:
            process.kill()
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}\n{log.read_text()[-2000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
