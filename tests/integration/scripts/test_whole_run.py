"""The program that goes once through everything, on the CPU."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from helpers import ROOT

from data_tools.common import options
from scripts import whole_run as module
from scripts.gpu_acceptance import start
from scripts.whole_run import CALL_AGAIN, Failed, OutOfTime, Plan, WholeRun, main
from scripts.whole_run_report import Measured, phase_tables, predict, table, warnings
from training.config.run_config import from_argv
from training.estimate import EstimateOptions, estimated_times


def whole_run(work: Path, seconds: float = 60, recipe: str = "aiacc8") -> WholeRun:
    plan = Plan(work=work, recipe=ROOT / f"rn50_configs/{recipe}.yaml", card="h200", stand_in=True)
    return WholeRun(plan, time.monotonic() + seconds)


def test_part_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x'); print('well')"
    for _ in range(2):
        whole_run(tmp_path).part("counting", "-c", count)
    assert (tmp_path / "count").read_text() == "x"
    assert whole_run(tmp_path).record["counting"]["said"] == "well"


def test_part_that_fails_or_is_out_of_time_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="failing: exit status 3"):
        whole_run(tmp_path).part("failing", "-c", "raise SystemExit(3)")
    with pytest.raises(OutOfTime):
        whole_run(tmp_path, seconds=1).part("endless", "-c", "import time; time.sleep(600)")
    assert whole_run(tmp_path).record == {}


def test_training_that_is_stopped_before_it_is_loaded_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ("-c", "import time; time.sleep(600)")
    monkeypatch.setattr(module, "start", lambda command, *others: start(begin, *others))
    run = whole_run(tmp_path, recipe="cpu_demo", seconds=module.SAVING_S + 1)
    with pytest.raises(OutOfTime):
        run.train("train", tmp_path / "run", "betons", 512)
    assert [each["exit"] for each in run.record["train"]["starts"]] == [-signal.SIGTERM]


def test_recipe_for_eight_gpus_keeps_its_batch_on_one(tmp_path: Path) -> None:
    plan = whole_run(tmp_path).plan
    assert "--dist.emulate_gpus=8" in plan.options("betons")
    assert not any("emulate" in option for option in whole_run(tmp_path, recipe="cpu_demo").plan.options("betons"))
    assert plan.small == 25_600


def test_prediction_adds_up_to_what_the_estimate_prints(tmp_path: Path) -> None:
    recipe = ROOT / "rn50_configs/aiacc8.yaml"
    argv = ["--config-file", str(recipe), "--gpu=h200", "--gpus=1", "--train_images=258000", "--val_images=10000"]
    argv.append("--dist.emulate_gpus=8")
    asked = options.parse(EstimateOptions, argv, prog="test")
    for each, predicted in zip(
        estimated_times(asked, asked.site)[1], predict(recipe, "h200", 258_000, 10_000, 8), strict=True
    ):
        epochs, rate = each.phase.end - each.phase.start, predicted["images_per_s"]
        global_batch = 8 * each.phase.batch_per_gpu
        steps = 258_000 // global_batch * global_batch / rate
        an_epoch = steps + predicted["validation_s"] + predicted["epoch_end_s"]
        assert predicted["seconds"] == pytest.approx(epochs * an_epoch + predicted["first_step_s"])
        assert predicted["first_step_s"] == pytest.approx(20)


def test_parts_of_another_plan_and_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = whole_run(tmp_path)
    run.plan.check(run.record)
    run.keep("generate betons", {"seconds": 1.0})
    aiacc8 = ROOT / "rn50_configs/aiacc8.yaml"
    for work, recipe, more, said in (
        (".", aiacc8, ["--stand-in", "--gpu=h200"], f"{tmp_path}: has parts of another run (train 256000, not 512, "),
        ("l", aiacc8, ["--gpu=l5"], "--gpu: 'l5' is not one of"),
        ("n", "none.yaml", [], "none.yaml: No such file"),
    ):
        assert main([f"--work={tmp_path / work}", f"--recipe={recipe}", "--minutes=0", *more]) == 2
        assert said in capsys.readouterr().err


def test_table_of_nothing_says_not_run(tmp_path: Path) -> None:
    text = "\n".join(table({}, "aiacc8", tmp_path))
    assert text.startswith("training: not run")
    assert text.count("not run") == 12
    assert "Warnings: none" in text


def test_figures_are_shown_beside_their_prediction() -> None:
    phase = from_argv(["--config-file", str(ROOT / "rn50_configs/aiacc8.yaml")]).schedule.phases[0]
    keys = ("images_per_s", "validation_s", "first_step_s", "epoch_end_s", "seconds")
    measured = Measured(
        phase=phase,
        figures=dict(zip(keys, (1100.0, 2.0, 30.0, None, 90.0), strict=True)),
        data_wait_percent=0.5,
        gpu_memory_gib=20.0,
        host_memory_gib=4.0,
        top1=70.0,
    )
    lines = list(phase_tables([dict(zip(keys, (1000.0, 2.0, 20.0, 1.0, 100.0), strict=True))], [measured]))
    assert "| 1-12 | 96 | images/s | 1000.0 | 1100.0 | +10.0 % |" in lines
    assert "| 1-12 | 96 | end of an epoch (checkpoint), s | 1.0 |  |  |" in lines
    assert "| 1-12 | 96 | the whole phase, s | 100.0 | 90.0 | -10.0 % |" in lines
    assert lines[-1] == "| 1-12 | 96 | 0.50 | 20.0 | 4.0 | 70.00 |"


def test_warnings_of_all_logs_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("epoch 1\nwarning: slow\nwarning: slow\n/lib/a.py:3: UserWarning: odd\n")
    assert warnings(tmp_path) == ["train.log: warning: slow", "train.log: /lib/a.py:3: UserWarning: odd"]


@pytest.mark.slow
def test_whole_run_in_pieces_is_complete_and_continues_bit_for_bit(tmp_path: Path) -> None:
    argv = ["--stand-in", f"--work={tmp_path}", "--minutes"]
    statuses = [main([*argv, "0.7"])]  # not enough for all
    while statuses[-1] == CALL_AGAIN and len(statuses) < 20:
        statuses.append(main([*argv, "10"]))
    logs = "\n".join(log.read_text()[-2000:] for log in tmp_path.glob("*.log"))
    assert statuses[0] == CALL_AGAIN and statuses[-1] == 0, logs
    record = json.loads((tmp_path / "record.json").read_text())
    for name in ("cpu_demo", "cpu_demo_continued"):
        assert sum(each["amid"] for each in record[f"train {name}"]["starts"]) >= 2
    assert not any(each["amid"] for each in record["train cpu_demo_undisturbed"]["starts"])
    assert record["compare cpu_demo"]["exit"] == 0, record["compare cpu_demo"]["said"]
    scores = [record[f"{part} cpu_demo"]["said"] for part in ("validate", "torchvision")]
    assert scores[0]["top1"] == pytest.approx(scores[1]["top1"], abs=1e-4)
    assert scores[0]["images"] == scores[1]["images"] == 108
    assert not warnings(tmp_path)
    text = (tmp_path / "cpu_demo.md").read_text()
    assert "not run" not in text and "no difference in" in text
    assert text.count("| images/s |") == 3
