"""The command line of train_imagenet.py: what it accepts, and one line with exit status 2 for what it does not."""

from functools import partial
from pathlib import Path

import pytest
from helpers import recipes

import train_imagenet
from data_tools.common.options import OptionError

TITAN8 = recipes.arguments("titan8")
config = partial(recipes.config, "titan8")


def train(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of train_imagenet.py."""
    return train_imagenet.main(list(argv)), *capsys.readouterr()


def test_command_line_wins_over_yaml() -> None:
    assert config().train.amp == "fp16"
    assert config("--train.amp=bf16").train.amp == "bf16"
    assert config("--run.seed", "3").run.seed == 3


@pytest.mark.parametrize(
    ("word", "value"),
    [(word, True) for word in ("1", "true", "yes", "True")] + [(word, False) for word in ("0", "false", "no", "False")],
)
def test_booleans(word: str, value: bool) -> None:
    assert config(f"--model.init_bn0={word}").model.init_bn0 is value


def test_loss_scale_is_a_number_or_dynamic() -> None:
    assert config("--train.loss_scale=512").train.loss_scale == 512.0
    assert config("--train.loss_scale=dynamic").train.loss_scale == "dynamic"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.momentun=0.9"], "unknown option --train.momentun; did you mean --train.momentum"),
        (["--train.mom=0.9"], "unknown option --train.mom"),
        (["--train.momentum=nan"], "--train.momentum: 'nan' is not a finite number"),
        (["--train.momentum=1.5"], "momentum: 1.5 is out of range"),
        (["--train.amp=fp8"], "'fp8' is not one of auto, fp16, bf16, fp32"),
        (["--train.loss_scale=static"], "loss_scale"),
        (["--model.init_bn0=maybe"], "not a boolean"),
        (["--run.seed=-1"], "seed: -1 is out of range"),
        (["--dist.processes=0"], "processes: 0 is out of range"),
        (["--train.ema=0.9", "--train.ema_half_life=100"], "ema_half_life: give either ema or ema_half_life"),
        (["--train.ema_every=20"], "ema_every: nothing is averaged"),
        (["--train.ema_half_life=1e-5"], "too few to average over"),
        (["--train.loss=mse"], "'mse' is not one of cross_entropy, bce"),
        (["--run.init_from=a.pth", "--run.resume=b.pt"], "init_from: not together with run.resume"),
        (["--run.init_from=a.pth", "--run.eval_only=1", "--run.checkpoint=b.pt"], "not together with run.eval_only"),
        (["--run.eval_only=true"], "needs --run.checkpoint"),
        (["--run.checkpoint=best.pt"], "only for --run.eval_only"),
        (["--schedule.imagenet18=[]"], "either phases or imagenet18"),
        (["titan8.yaml"], "unexpected argument"),
        (["--data.verify=checksums"], "option --data.verify is now --data.checksums (true or false)"),
        (["--run.log=json"], "option --run.log is now --log.format"),
        (["--run.log_seconds=3"], "option --run.log_seconds is now --log.seconds"),
        (["--run.eval_rect=1"], "option --run.eval_rect is now --run.eval_rectangular"),
        (["--run.plan=tru"], "--run.plan: 'tru' is not a boolean (true or false); a file for it is --run.plan_csv"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        config(*argv)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_momentum_beside_ramps_of_it_is_refused() -> None:
    with pytest.raises(OptionError, match=r"train\.momentum: the schedule has ramps of momentum"):
        recipes.config("aiacc8", "--train.momentum=0.8")


def test_other_size_for_evaluation_keeps_the_part_of_the_image() -> None:
    evaluation = "--run.eval_only=1", "--run.checkpoint=a.pt", "--run.eval_px=256"
    assert recipes.config("mosaic_mild", *evaluation).evaluated().val_shorter_px == 265  # 232 · 256 / 224
    assert config(*evaluation).evaluated().val_shorter_px == 291  # 1.14 · 256


def test_mistakes_end_in_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("train: {momentun: 0.9}\n")
    cases = [
        (["--config-file", str(bad)], "unknown key train.momentun"),
        ([*TITAN8, "--train.momentun=1"], "did you mean --train.momentum?"),
        ([], "give either phases or imagenet18"),
        ([*TITAN8, f"--data.dir={tmp_path}"], "run write_datasets.py"),
        ([*TITAN8, "--run.plan=true", f"--data.dir={tmp_path}"], "--data.train_images"),
        ([*TITAN8, "--run.plan=true", "--data.train_images=4095"], "batch_per_gpu"),
    ]
    for argv, message in cases:
        status, out, err = train(capsys, *argv)
        assert (status, out) == (2, ""), argv
        assert message in err
        assert err.count("\n") == 1
