"""Compile the steps of all phases into Inductor's cache on disk, where a training finds them.

Give it the options of the training, on the machine that will train. It needs no betons, so it can run while they are
being converted.
"""

import os
import sys
import time
from collections.abc import Sequence

from pydantic import Field

from data_tools.common.console import show
from data_tools.common.errors import program
from data_tools.common.options import parse
from training.config.run_config import RunConfig
from training.config.startup_checks import accumulation_steps, known_ranks
from training.distributed.ranks import join_job


class WarmUpOptions(RunConfig):
    classes: int = Field(1000, ge=1, description="number of classes in the betons")


def run(options: WarmUpOptions) -> int:
    """Compile in this process what it will train; every process of the job calls it."""
    from training.distributed.world import world
    from training.engine.build import step_of_run
    from training.engine.state import configure_torch
    from training.model import networks

    schedule = options.schedule
    with world(options.dist) as this:
        configure_torch(options.run)
        networks.check_sizes(options.model, options.classes, schedule.phases)
        step = step_of_run(options, options.classes, this)
        # Phases of the same shape have the same code.
        for px, batch_per_gpu in dict.fromkeys((phase.px, phase.batch_per_gpu) for phase in schedule.phases):
            began, batch = time.perf_counter(), batch_per_gpu * step.accumulation_steps
            compiled = step.prepare(px, batch, this.device)
            if this.is_main:
                how = "compiled" if compiled else "found in the cache"
                show(f"{px} px, {batch} images: {how} in {time.perf_counter() - began:.1f} s")
    return 0


@program("training.warm_up")
def main(argv: Sequence[str]) -> int:
    options = parse(WarmUpOptions, argv, prog="training.warm_up", description=__doc__ or "")
    join_job(os.environ)
    # torch takes seconds to load; a mistake above needs none of it.
    from training.distributed import launcher, world
    from training.engine.compilation import compile_mode

    device = "cuda" if world.use_cuda(options.dist) else "cpu"
    ranks = known_ranks(options.dist, os.environ) or world.processes_to_start(options.dist)
    accumulated = accumulation_steps(options.dist, ranks)
    if compile_mode(options.train, device, accumulated) is None:
        show(f"nothing to compile: train.compile={options.train.compile} is off on a {device.upper()}")
        return 0
    return launcher.launch(run, options.dist, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
