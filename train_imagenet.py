"""Train ImageNet from FFCV betons: python train_imagenet.py --config-file rn50_configs/titan8.yaml"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence

from data_tools.common.errors import program
from data_tools.common.files import locked
from data_tools.common.runtime import expendable_output
from training import plan
from training.config.datasets import check_batches, read_datasets
from training.config.run_config import from_argv
from training.distributed.ranks import join_job
from training.runlog import console, provenance, wandb_logger


@program("train_imagenet.py")
def main(argv: Sequence[str]) -> int:
    config = from_argv(argv)
    if config.run.plan or config.run.plan_csv:
        plan.show(config)
        return 0
    os.environ[provenance.COMMAND] = shlex.join(["train_imagenet.py", *argv])
    # All that can be known without a GPU is checked before any process starts.
    join_job(os.environ)
    datasets = read_datasets(config.data.dir, config.betons())
    wandb_logger.check(config.log.wandb)
    with contextlib.ExitStack() as held:
        held.enter_context(expendable_output())
        if not config.run.eval_only and os.environ.get("RANK", "0") == "0":
            held.enter_context(locked(config.run.dir, "a training"))
        # torch takes seconds to load; a plan or a mistake above needs none of it.
        if "torch" not in sys.modules:
            console.print_start(config)
        from training import trainer
        from training.distributed import launcher, world

        ranks = world.ranks_of_job(config.dist)
        accumulation_steps = world.accumulation_steps(config.dist, ranks)
        if not config.run.eval_only:
            images = {phase.data: datasets.images(phase) for phase in config.schedule.parsed.phases}
            check_batches(images, config.schedule.parsed, accumulation_steps * ranks)
        return launcher.launch(trainer.run, config, config.dist)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
