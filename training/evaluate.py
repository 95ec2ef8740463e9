"""Validate weights on the recipe's validation images, as its last phase does.

Takes every option of train_imagenet.py, and needs one beton: the last phase's validation set.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from data_tools.common.console import plural, show
from data_tools.common.errors import UserError, program
from data_tools.common.options import Argument, OptionError, parse
from training.config.datasets import Datasets, read_datasets
from training.config.phases import MOST_PX, Phase
from training.config.run_config import RunConfig
from training.config.startup_checks import check_checkpoint
from training.distributed.ranks import join_job
from training.runlog.console import as_json
from training.runlog.epoch_table import Scores

if TYPE_CHECKING:
    from training.distributed.stop_signals import StopSignals
    from training.distributed.world import World

PROGRAM = "training.evaluate"
WEIGHTS = "WEIGHTS"

logger = logging.getLogger("training.evaluate")


class EvaluateOptions(RunConfig):
    weights: Annotated[Path, Argument(WEIGHTS)] = Field(
        description="a checkpoint of this program or of torchvision, timm, Lightning and others, or safetensors"
    )
    px: int | None = Field(None, ge=8, le=MOST_PX, description="size of the crop; by default that of the last phase")
    rectangular: bool | None = Field(
        None, description="validate on rectangles, or on squares; by default as the last phase"
    )

    @property
    def phase(self) -> Phase:
        """The last phase of the schedule, with ``px`` and ``rectangular``."""
        last = self.schedule.phases[-1]
        px = last.val_px if self.px is None else self.px
        rectangular = last.rectangular_val if self.rectangular is None else self.rectangular
        resize = None if last.val_resize is None else last.val_resize * px // last.val_px  # the same part of the image
        return last.model_copy(update={"val_px": px, "val_resize": resize, "rectangular_val": rectangular})

    def datasets(self) -> Datasets:
        return read_datasets(self.data.dir, [f"val_{self.phase.val_data}"])


@program(PROGRAM)
def main(argv: Sequence[str]) -> int:
    options = parse(EvaluateOptions, argv, prog=PROGRAM, description=__doc__ or "")
    check_checkpoint(WEIGHTS, options.weights)
    join_job(os.environ)
    options.datasets()
    if "torch" not in sys.modules:
        logger.info("validating %s; loading PyTorch", options.weights)
    from training.distributed import launcher

    return launcher.launch(run, options.dist, options)


def run(options: EvaluateOptions) -> int:
    """Validate in this process, one of the job's; returns the exit status."""
    from training.distributed.launcher import run_in_job

    return run_in_job(PROGRAM, options, lambda world, signals: validate(options, world, signals))


def validate(options: EvaluateOptions, world: World, signals: StopSignals) -> None:
    """Print the scores of the weights. OptionError if they do not fit, Preempted if a signal asks to stop."""
    from training.distributed.world import Preempted, from_main
    from training.engine.evaluate import EvaluationStopped, evaluate
    from training.engine.phase_loaders import note_strips, share_of, val_loader
    from training.engine.state import configure_torch
    from training.engine.step import Predictor
    from training.model import networks, weights

    configure_torch(options.run)
    datasets = options.datasets()
    networks.check_sizes(options.model, len(datasets.classes), [options.phase], training=False)
    network, dtype = networks.for_run(options.model, options.train, len(datasets.classes), world.device)
    try:
        given = from_main(lambda: weights.read(options.weights), world)
        weights.load_into(network, given, datasets.classes)
    except OptionError as error:
        raise OptionError(error.fault, where=WEIGHTS, remedy=error.remedy) from None
    if given.averaged:
        logger.info("note: the averaged weights (%s) that %s also holds are not read", given.averaged, given.source)
    predict = Predictor(network, dtype, world.device, flip=options.train.flip_tta)
    with val_loader(options, datasets, options.phase, **share_of(world, options.data)) as loader:
        note_strips(loader)
        try:
            scores = evaluate(predict, loader, world, signals)
        except EvaluationStopped:
            raise Preempted("stopped; there are no scores", signals.number, saved=False) from None
    if world.is_main and not show(score_line(options, scores)):
        raise UserError("the scores could not be written", where="standard output")


def score_line(options: EvaluateOptions, scores: Scores) -> str:
    phase, val_set = options.phase, f"val_{options.phase.val_data}"
    if options.log.format == "json":
        about = {"checkpoint": str(options.weights), "px": phase.val_px, "set": val_set}
        return as_json("validation", asdict(scores) | about | {"rectangular": phase.rectangular_val})
    kind = f"{plural(scores.images, 'image')}, {phase.val_px} px {'rectangles' if phase.rectangular_val else 'squares'}"
    return f"{options.weights}: top-1 {scores.top1:.4f} %, top-5 {scores.top5:.4f} % ({kind} of {val_set})"


if __name__ == "__mp_main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A process of the launcher: while it loads torch, which takes seconds, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
