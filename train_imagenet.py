"""Train ImageNet from FFCV betons: python train_imagenet.py --config-file rn50_configs/titan8.yaml"""

from __future__ import annotations

import sys

from training import plan
from training.config.datasets import check_batches, read_datasets
from training.config.run_config import from_argv
from training.runlog import wandb_logger


def main(argv: list[str]) -> int:
    options = from_argv(argv)
    try:
        if options.run.plan:
            plan.show(options)
            return 0
        # All that can be known without a GPU is checked before any process starts.
        datasets = read_datasets(options.data.dir, options.sets())
        wandb_logger.check(options.log.wandb)
        # torch takes seconds to load; a plan or a mistake above needs none of it.
        from training import trainer
        from training.engine import distributed

        ranks = distributed.ranks_of_job(options.dist)
        accumulation_steps = distributed.accumulation_steps(options.dist, ranks)
        if not options.run.eval_only:
            check_batches(datasets, options.schedule.build(), accumulation_steps * ranks)
    except (OSError, ValueError) as error:
        print(f"train_imagenet.py: error: {error}", file=sys.stderr)
        return 2
    return distributed.launch(trainer.run, options, options.dist)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
