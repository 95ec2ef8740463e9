"""Train ImageNet from FFCV betons: python train_imagenet.py --config-file rn50_configs/titan8.yaml"""

from __future__ import annotations

import sys

from training import plan
from training.config import datasets as inputs
from training.config import run_config as config
from training.runlog import wandb_logger as tracking


def main(argv: list[str]) -> int:
    options = config.from_argv(argv)
    try:
        if options.run.plan:
            plan.show(options)
            return 0
        # All that can be known without a GPU is checked before any process starts.
        found = inputs.read(options.data.dir, options.sets())
        tracking.check(options.log.wandb)
        # torch takes seconds to load; a plan or a mistake above needs none of it.
        from training import trainer
        from training.engine import distributed

        ranks = distributed.ranks_of_job(options.dist)
        parts = distributed.parts(options.dist, ranks)
        if not options.run.eval_only:
            inputs.check_batches(found, options.schedule.build(), parts * ranks)
    except (OSError, ValueError) as error:
        print(f"train_imagenet.py: error: {error}", file=sys.stderr)
        return 2
    return distributed.launch(trainer.run, options, options.dist)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
