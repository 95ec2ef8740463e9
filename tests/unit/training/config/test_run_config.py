"""The command line of train_imagenet.py: what it accepts, and one line with exit status 2 for what it does not."""

import re
from functools import partial
from pathlib import Path

import pytest
from helpers import ROOT, recipes
from training.config.other_names import ELSEWHERE
from training.config.phases_yaml import KEYS, from_phases

import train_imagenet
from data_tools.common.options import OptionError, entries
from training.config.run_config import RunConfig
from training.config.schedule import Phase

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
        (["--run.init_from=a.pth", "--run.resume=b.pt"], "init_from: cannot be combined with run.resume"),
        (
            ["--run.init_from=a.pth", "--run.eval_only=1", "--run.checkpoint=b.pt"],
            "cannot be combined with run.eval_only",
        ),
        (["--run.eval_only=true"], "needs --run.checkpoint"),
        (["--run.checkpoint=best.pt"], "only for --run.eval_only"),
        (["--schedule.imagenet18=[]"], "either phases or imagenet18"),
        (["titan8.yaml"], "unexpected argument"),
        (["--data.verify=checksums"], "option --data.verify is now --data.checksums (true or false)"),
        (["--run.log=json"], "option --run.log is now --log.format"),
        (["--run.log_seconds=3"], "option --run.log_seconds is now --log.seconds"),
        (["--run.eval_rect=1"], "option --run.eval_rect is now --run.eval_rectangular"),
        (["--train.nesterov", "--train.momentum=0"], "train.nesterov: needs momentum"),
        (["--run.seed=9223372036854775808"], "seed: 9223372036854775808 is out of range"),
        (["--data.workers=100000"], "workers: 100000 is out of range (1 to 1024)"),
        (["--dist.processes=100000"], "processes: 100000 is out of range (1 to 1024)"),
        (["--dist.timeout_minutes=1e20"], "timeout_minutes: 1e+20 is out of range"),
        (["--data.page_window=99999999999999999999"], "page_window: 99999999999999999999 is out of range"),
        (["--train.mixup=1e-300"], "train.mixup: 1e-300 mixes nothing; give 0, or 0.001 or more"),
        (["--train.cutmix=0.0009"], "train.cutmix: 0.0009 mixes nothing"),
        (["--run.dir="], "--run.dir: empty"),
        (["--run.plan_csv="], "--run.plan_csv: empty"),
        (["--run.resume="], "--run.resume: empty"),
        (["--train.loss_scale=none"], "--train.loss_scale: 'none' is not a finite number"),
        (["--epochs=3"], "unknown option --epochs; here, epochs are schedule.phases[].epochs in the YAML"),
        (["--lr", "0.1"], "unknown option --lr; here, rates are schedule.phases[].lr in the YAML"),
        (["--batch-size=256"], "here, the batch is schedule.phases[].batch_per_gpu in the YAML"),
        (["-b", "256"], "here, the batch is schedule.phases[].batch_per_gpu in the YAML"),
        (["--momentum=0.9"], "unknown option --momentum; did you mean --train.momentum?"),
        (["--train.lr=0.1"], "unknown option --train.lr; here, rates are schedule.phases[].lr in the YAML"),
        (["--run.epochs=3"], "unknown option --run.epochs; here, epochs are schedule.phases[].epochs"),
        (["--schedule.batch_per_gpu=8"], "here, the batch is schedule.phases[].batch_per_gpu in the YAML"),
        (["--train.optimizer=adam"], "unknown option --train.optimizer; here, the optimizer is SGD"),
        (["--model.name=resnet18"], "unknown option --model.name; here, give --model.arch"),
        (["--train.seed=1"], "unknown option --train.seed; did you mean --run.seed?"),
        (["--node_rank=1"], "unknown option --node_rank; here, processes of several machines are started by torchrun"),
        (["--run.plan=tru"], "--run.plan: 'tru' is not a boolean (true or false); a file for it is --run.plan_csv"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        config(*argv)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_batch_of_one_is_refused_where_batch_norm_would_see_one_value() -> None:
    """torch says "Expected more than 1 value per channel when training" of a feature map of 1 x 1 x 1."""
    for px, batch, refused in ((32, 1, True), (8, 1, True), (33, 1, False), (32, 2, False)):
        phase = {"epochs": [0, 1], "px": px, "batch_per_gpu": batch, "data": 64}
        make = partial(from_phases, [phase | {"lr": [{"epochs": [0, 1], "from": 1, "to": 1}]}])
        if refused:
            with pytest.raises(OptionError, match=r"BatchNorm would see one value.*give 2 or more, or more than 32 px"):
                make()
        else:
            make()


def test_set_is_no_number_with_a_leading_zero() -> None:
    with pytest.raises(OptionError, match="'064' is not a beton set"):
        Phase(start=0, end=1, px=64, batch_per_gpu=2, data="064")


UNANSWERED = {"log_all_workers", "short_epoch", "internal_config_fn", "skip_auto_shutdown"}  # there is no such thing
NAMES_HERE = {f"--{entry.key}" for entry in entries(RunConfig)} | {"--config-file"}
KEYS_OF_PHASES = {f"schedule.phases[].{key}" for key in KEYS}


@pytest.mark.parametrize("answer", sorted(set(ELSEWHERE.values())))
def test_what_is_given_in_place_of_another_programs_option_exists(answer: str) -> None:
    assert set(re.findall(r"--(?:[a-z_]+\.)?[a-z_0-9-]+", answer)) <= NAMES_HERE
    assert set(re.findall(r"schedule\.phases\[\]\.[a-z_]+", answer)) <= KEYS_OF_PHASES


def test_options_named_in_coming_from_are_answered_with_what_to_give_here() -> None:
    page = (ROOT / "docs/COMING_FROM.md").read_text()
    flags, options = page.partition("### Flags of")[2].partition("## ffcv")[0], page.partition("### Options of")[2]
    rows = re.findall(r"^\| (`.*?) \|", flags + options, re.MULTILINE)
    theirs = [name.lstrip("-").replace("-", "_") for row in rows for name in re.findall(r"`([-a-z_.]+)`", row)]
    assert len(theirs) > 50
    for name in theirs:
        with pytest.raises(OptionError) as refused:
            config(f"--{name}=1")
        known = {"model.arch"}  # the same name in both
        answered = "here, " in str(refused.value) or "did you mean" in str(refused.value)
        assert answered or name in UNANSWERED | known, name


def test_sections_named_as_another_programs_option_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("model:\ndata:\n")
    assert config("--config-file", str(file)).model.arch == "resnet50"
    file.write_text("model: resnet50\n")
    with pytest.raises(OptionError, match=r"more\.yaml: unknown key model; here, give --model\.arch"):
        config("--config-file", str(file))


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
