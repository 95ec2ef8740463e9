"""Train ImageNet from FFCV betons: python train_imagenet.py --config-file rn50_configs/titan8.yaml"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from data_tools.common.errors import program
from data_tools.common.files import locked
from data_tools.common.runtime import expendable_output
from training import plan
from training.config import preflight
from training.config.datasets import Datasets, check_batches, read_datasets
from training.config.run_config import RunConfig, from_argv
from training.distributed.ranks import join_job
from training.runlog import console, invocation, wandb_logger


@program("train_imagenet.py")
def main(argv: Sequence[str]) -> int:
    config = from_argv(argv)
    preflight.check_files(config)
    join_job(os.environ)
    if config.run.plan or config.run.plan_csv:
        plan.show(config)
        return 0
    os.environ[invocation.COMMAND] = shlex.join(["train_imagenet.py", *argv])
    # All that can be known without a GPU is checked before any process starts.
    datasets = read_datasets(config.data.dir, config.betons())
    wandb_logger.check(config.log.wandb)
    ranks = preflight.known_ranks(config.dist, os.environ)
    if ranks is not None:
        _check_batches(config, datasets, ranks)
    with contextlib.ExitStack() as held:
        held.enter_context(expendable_output())
        is_main = os.environ.get("RANK", "0") == "0"
        if is_main and not config.run.eval_only:
            try:
                held.enter_context(locked(config.run.dir, "a training"))
            except OSError as error:
                raise preflight.unusable_folder(config.run.dir, error) from None
        # torch takes seconds to load; a plan or a mistake above needs none of it.
        if is_main and "torch" not in sys.modules:
            console.print_start(config)
        from training import trainer
        from training.distributed import launcher, world

        _check_batches(config, datasets, world.ranks_of_job(config.dist))
        return launcher.launch(trainer.run, config, config.dist)


def _check_batches(config: RunConfig, datasets: Datasets, ranks: int) -> None:
    """OptionError if ``ranks`` processes cannot share the global batch, or it is larger than a training set."""
    steps = preflight.accumulation_steps(config.dist, ranks)
    if not config.run.eval_only:
        images = {phase.data: datasets.images(phase) for phase in config.schedule.parsed.phases}
        check_batches(images, config.schedule.parsed, steps * ranks)


if __name__ == "__mp_main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A process of the launcher: while it loads torch, which takes seconds, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
