"""The command line of train_imagenet.py: what it accepts, and one line with exit status 2 for what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.common.options import OptionError, parse
from training.config.run_config import RunConfig, as_mapping

ROOT = Path(__file__).parents[2]
TITAN8 = ["--config-file", str(ROOT / "rn50_configs/titan8.yaml")]


def config(*argv: str) -> RunConfig:
    return parse(RunConfig, [*TITAN8, *argv], prog="test")


def train(*argv: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train_imagenet.py"), *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_command_line_wins_over_yaml() -> None:
    assert config().train.amp == "fp16"
    assert config("--train.amp=bf16").train.amp == "bf16"
    assert config("--run.seed", "3").run.seed == 3


def test_environment_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.amp", "TRAIN.AMP", "train_amp"):
        monkeypatch.setenv(name, "bf16")
    assert config().train.amp == "fp16"


@pytest.mark.parametrize("word", ["1", "true", "yes", "True"])
def test_true(word: str) -> None:
    assert config(f"--model.init_bn0={word}").model.init_bn0 is True


@pytest.mark.parametrize("word", ["0", "false", "no", "False"])
def test_false(word: str) -> None:
    assert config(f"--model.init_bn0={word}").model.init_bn0 is False


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
        (["--run.eval_only=true"], "needs --run.checkpoint"),
        (["--run.checkpoint=best.pt"], "only for --run.eval_only"),
        (["--schedule.imagenet18=[]"], "either phases or imagenet18"),
        (["titan8.yaml"], "unexpected argument"),
    ],
)
def test_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        config(*argv)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_mistakes_end_in_one_line_and_status_2(tmp_path: Path) -> None:
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
        done = train(*argv)
        assert done.returncode == 2, (argv, done)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_plan_table(tmp_path: Path) -> None:
    done = train(*TITAN8, "--run.plan=true", "--data.train_images=1281167", CUDA_VISIBLE_DEVICES="")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 1 + 28
    first = lines[1].split()
    # 1,281,167 // 4,096 = 312 batches; lr of the first: 1 + 1 / (7 * 312)
    assert first[:9] == ["0", "160", "128", "512", "4096", "1.000458", "1.142857", "312", "1277952"]
    assert "val_full rectangles, batch 128" in lines[-1]


def test_plan_csv(tmp_path: Path) -> None:
    done = train(*TITAN8, "--run.plan=plan.csv", "--data.train_images=100000", cwd=tmp_path)
    rows = (tmp_path / "plan.csv").read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert rows[0] == "epoch,batch,batches,px,batch_per_gpu,set,lr"
    assert len(rows) == 1 + 13 * 24 + 12 * 55 + 3 * 97
    assert rows[1].startswith("0,1,24,128,512,160,1.005952")
    assert rows[-1] == "27,97,97,288,128,full,0.00025"


def test_help_is_complete_and_needs_neither_torch_nor_ffcv() -> None:
    done = train("--help")
    assert done.returncode == 0
    for section, options in as_mapping(config()).items():
        for key in options:
            assert f"--{section}.{key} " in done.stdout
    probe = (
        "import sys\nfrom training import config, plan, inputs\n"
        "print([m for m in ('torch', 'ffcv', 'cv2', 'numba') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
