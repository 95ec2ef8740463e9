"""The times that an estimate is made from, measured on this machine."""

import pytest
from helpers.recipes import config

from training.config.train_config import Model
from training.engine.synthetic_benchmark import SyntheticRun, measure
from training.estimation.cards import RATED, RATED_PARAMETERS
from training.model import networks, resnet


def test_steps_of_this_run_are_measured_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[SyntheticRun] = []
    call = SyntheticRun.__call__

    def seen(run: SyntheticRun) -> None:
        runs.append(run)
        call(run)

    monkeypatch.setattr(SyntheticRun, "__call__", seen)
    options = config("cpu_demo", "--model.blurpool=true", "--train.mixup=0.2", "--train.ema=0.9")
    phase = options.schedule.phases[0]
    start_s, image_s = measure(options, phase.px, phase.batch_per_gpu, steps=1)
    assert start_s > 0 and image_s > 0
    run = runs[0]
    assert any(isinstance(module, resnet.BlurredConv) for module in run.step.model.modules())
    assert run.step.mixing
    assert run.ema is not None and run.ema.steps == len(runs) == 3


def test_parameters_of_the_rated_network_are_counted() -> None:
    network = networks.without_weights(Model(arch=RATED), 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == RATED_PARAMETERS
