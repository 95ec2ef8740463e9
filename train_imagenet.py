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
from training.config import startup_checks
from training.config.datasets import check_batches, read_datasets
from training.config.run_config import from_argv
from training.distributed.ranks import join_job
from training.runlog import console, invocation, wandb_logger


@program("train_imagenet.py")
def main(argv: Sequence[str]) -> int:
    config = from_argv(argv)
    startup_checks.check_files(config)
    join_job(os.environ)
    os.environ[invocation.COMMAND] = shlex.join(["train_imagenet.py", *argv])
    datasets = read_datasets(config.data.dir, config.schedule.betons())
    wandb_logger.check(config.log.wandb)
    with contextlib.ExitStack() as held:
        if os.environ.get("RANK", "0") == "0":
            try:
                held.enter_context(locked(config.run.dir, "a training"))
            except OSError as error:
                raise startup_checks.unusable_folder(config.run.dir, error) from None
        ranks = startup_checks.known_ranks(config.dist, os.environ)
        if ranks is None:  # the number of GPUs decides, which torch knows
            console.print_start(config)
            from training.distributed import world

            ranks = world.processes_to_start(config.dist)
        images = {phase.data: datasets.images(phase) for phase in config.schedule.phases}
        check_batches(images, config.schedule, ranks * startup_checks.accumulation_steps(config.dist, ranks))
        console.print_start(config)
        from training import trainer
        from training.distributed import launcher

        return launcher.launch(trainer.run, config.dist, config, datasets)


if __name__ == "__mp_main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A process of the launcher: while it loads torch, which takes seconds, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
