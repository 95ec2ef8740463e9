"""Builds the step that trains a network, the same for a run, for its warm-up and for benchmarks."""

import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config.run_config import RunConfig
from training.config.startup_checks import accumulation_steps
from training.config.train_config import Model, Train
from training.distributed.world import World
from training.engine.compilation import compile_mode
from training.engine.step import LossModule, Predictor, TrainStep
from training.model import networks, optimizer
from training.model.mixing import MixupCutmix


def build_step(
    net: Model,
    train: Train,
    classes: int,
    world: World,
    *,
    highest_lr: float,
    momentum: float | None = None,
    accumulation_steps: int = 1,
) -> TrainStep:
    """The step of a new network for ``classes`` classes, on the device of ``world``.

    ``momentum``: at the start, in place of ``train.momentum``. ``highest_lr``: of the schedule.
    """
    model, dtype = networks.for_run(net, train, classes, world.device)
    loss_module = LossModule(Predictor(model, dtype, world.device), train.label_smoothing, train.loss)
    compiles = compile_mode(train, world.device.type, accumulation_steps) is not None
    return TrainStep(
        loss_module,
        optimizer.build(model, train, highest_lr=highest_lr, momentum=momentum),
        train,
        # Compilation cuts the graph at DDP's buckets, and with accumulation it changes.
        parallel=_parallel(loss_module, world, static_graph=accumulation_steps == 1 and not compiles),
        accumulation_steps=accumulation_steps,
        mixing=MixupCutmix(train.mixup, train.cutmix, classes),
        rank=world.rank,
        ranks=world.ranks,
    )


def step_of_run(config: RunConfig, classes: int, world: World) -> TrainStep:
    """The step that a run trains, and that its warm-up compiles."""
    schedule = config.schedule
    return build_step(
        config.model,
        config.train,
        classes,
        world,
        highest_lr=schedule.highest_lr,
        momentum=schedule.momentum(0, 0, 1),
        accumulation_steps=accumulation_steps(config.dist, world.ranks),
    )


def _parallel(loss_module: LossModule, world: World, *, static_graph: bool) -> nn.Module:
    """``loss_module`` in DDP, if there are several processes."""
    if world.ranks == 1:
        return loss_module
    with warnings.catch_warnings():
        # The argument is renamed in torch 2.15; 2.11 does not have the new name.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        return DistributedDataParallel(
            loss_module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            # BatchNorm statistics stay local, as published; evaluate() shares them.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=static_graph,
        )
