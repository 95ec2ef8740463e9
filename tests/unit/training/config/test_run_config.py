"""The command line of train_imagenet.py: what it accepts, and one line for what it does not."""

from functools import partial

import pytest
from helpers import recipes

from data_tools.common.options import OptionError, options_of
from training.config.run_config import RunConfig, from_argv

config = partial(recipes.config, "titan8")


def test_command_line_wins_over_yaml() -> None:
    assert config().train.amp == "fp16"
    assert config("--train.amp=bf16").train.amp == "bf16"


def test_options_are_few() -> None:
    assert len(options_of(RunConfig)) <= 46


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("true", True), ("0", False)])
def test_stem_on_blocks_and_own_batch_norms_are_switches_or_auto(word: str, value: object) -> None:
    assert config(f"--model.stem_blocks={word}").model.stem_blocks is value
    assert config(f"--model.fused_batch_norm={word}").model.fused_batch_norm is value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.loss_scale=0"], "--train.loss_scale: 0 is out of range (at least 1); '0' is not dynamic"),
        (["--train.ema_every=20"], "--train.ema_every: nothing is averaged; give --train.ema=DECAY, too"),
        (["--train.nesterov", "--train.momentum=0"], "--train.nesterov: needs momentum"),
        (["--train.ema=1"], "--train.ema: 1 is out of range (above 0, below 1)"),
        (["--schedule.gpus=1000000007"], "--schedule.gpus: 1000000007 is out of range"),
        (["--train.mixup=1e-300"], "--train.mixup: 1e-300 is out of range (at least 0.001)"),
        (["--schedule.imagenet18=[]"], "give either phases or imagenet18"),
        (["--train.seed=1"], "unknown option --train.seed; did you mean --run.seed?"),
        (["--momentum=0.9"], "unknown option --momentum; did you mean --train.momentum?"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        config(*argv)
    assert message in str(refused.value)
    assert not refused.value.others


def test_recipe_is_asked_for() -> None:
    with pytest.raises(OptionError, match=r"a recipe: --config-file rn50_configs/titan8\.yaml"):
        from_argv([])
    with pytest.raises(OptionError, match=r"give --config-file titan8\.yaml"):
        from_argv(["titan8.yaml"])


def test_momentum_beside_ramps_of_it_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--train\.momentum: the schedule has ramps of momentum; change those"):
        recipes.config("aiacc8", "--train.momentum=0.8")


def test_weights_and_biases_may_be_switched_off() -> None:
    assert config("--log.wandb=off").log.wandb is None
