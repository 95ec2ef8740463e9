"""Validate weights on the recipe's validation images, as its last phase does.

Takes every option of train_imagenet.py, and needs one beton: the last phase's validation set.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_tools.common.errors import program
from data_tools.common.options import REQUIRED, OptionError, check, option, parse
from data_tools.common.resources import default_workers
from data_tools.common.text import plural
from training.config.datasets import Datasets, read_datasets
from training.config.preflight import check_checkpoint
from training.config.run_config import RunConfig
from training.config.schedule import Phase
from training.distributed.ranks import join_job
from training.runlog.console import as_json
from training.runlog.epoch_table import Scores

PROGRAM = "training.evaluate"
WEIGHTS = "WEIGHTS"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions(RunConfig):
    """One validation; it takes the run's own options."""

    weights: Path = option(
        REQUIRED,
        "a checkpoint of this program or of torchvision, timm, Lightning and others, or safetensors",
        argument=WEIGHTS,
    )
    px: int | None = option(None, "size of the crop", low=8, high=4096, none="that of the last phase")
    rectangular: bool | None = option(None, "validate on rectangles, or on squares", none="as the last phase")

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        check(self)

    @property
    def phase(self) -> Phase:
        """The last phase of the schedule, with ``px`` and ``rectangular``."""
        last = self.schedule.parsed.phases[-1]
        px = last.val_px if self.px is None else self.px
        rectangular = last.rectangular_val if self.rectangular is None else self.rectangular
        resize = last.val_resize * px // last.val_px  # the same part of the image
        return replace(last, val_px=px, val_resize=resize, rectangular_val=rectangular)

    def datasets(self) -> Datasets:
        return read_datasets(self.data.dir, [f"val_{self.phase.val_data}"])


@program(PROGRAM)
def main(argv: Sequence[str]) -> int:
    options = parse(EvaluateOptions, argv, prog=PROGRAM, description=__doc__ or "")
    check_checkpoint(WEIGHTS, options.weights)
    join_job(os.environ)
    options.datasets()
    if os.environ.get("RANK", "0") == "0" and "torch" not in sys.modules:
        print(f"validating {options.weights}; loading PyTorch", file=sys.stderr, flush=True)
    from training.distributed import launcher

    return launcher.launch(run, options, options.dist)


def run(options: EvaluateOptions) -> int:
    """Validate in this process; every process calls it, and the main one prints the scores. Returns the exit status."""
    from training.distributed.world import run_in_process

    return run_in_process(PROGRAM, validate, options)


def validate(options: EvaluateOptions) -> None:
    """Print the scores of the weights. OptionError if they do not fit, Preempted if a signal asks to stop."""
    from training.distributed.stop_signals import StopSignals
    from training.distributed.world import Preempted, from_main, world
    from training.engine.evaluate import EvaluationStopped, evaluate
    from training.engine.phase_loaders import val_loader
    from training.engine.state import configure_torch
    from training.engine.step import Predictor
    from training.model import resnet, weights

    configure_torch(options.run)
    datasets = options.datasets()
    with (
        world(options.dist) as this,
        StopSignals(this, options.run.checkpoint_minutes, options.dist.timeout_minutes) as signals,
    ):
        network, dtype = resnet.for_run(options.model, options.train, len(datasets.classes), this.device)
        try:
            given = from_main(lambda: weights.read(options.weights), this)
            weights.load_into(network, given, datasets.classes)
        except OptionError as error:
            raise OptionError(error.fault, where=WEIGHTS, remedy=error.remedy) from None
        if given.averaged and this.is_main:
            what = f"the averaged weights ({given.averaged}) that {given.source} also holds"
            print(f"note: {what} are not read", file=sys.stderr)
        predict = Predictor(network, dtype, this.device, flip=options.train.flip_tta)
        workers = options.data.workers or default_workers(this.local_ranks)
        part = {"rank": this.rank, "ranks": this.ranks, "workers": workers, "device": this.device}
        with val_loader(options, datasets, options.phase, **part) as loader:
            try:
                scores = evaluate(predict, loader, this, signals)
            except EvaluationStopped:
                raise Preempted("stopped; there are no scores", signals.number, saved=False) from None
        if this.is_main:
            print_scores(options, scores)


def print_scores(options: EvaluateOptions, scores: Scores) -> None:
    phase = options.phase
    px, val_set, rectangular = phase.val_px, f"val_{phase.val_data}", phase.rectangular_val
    if options.log.format == "json":
        about = {"checkpoint": str(options.weights), "px": px, "set": val_set, "rectangular": rectangular}
        print(as_json("validation", asdict(scores) | about))
        return
    kind = "rectangles" if rectangular else "squares"
    print(
        f"{options.weights}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % "
        f"({plural(scores.images, 'image')}, {px} px {kind} of {val_set})"
    )


if __name__ == "__mp_main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A process of the launcher: while it loads torch, which takes seconds, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
