"""The batches of a schedule, as a table and as CSV."""

from pathlib import Path

import pytest
from helpers.recipes import arguments

from training import plan
from training.config.schedule import Schedule, batches_per_epoch

TITAN8 = arguments("titan8")


def test_plan_leaves_out_the_incomplete_batch() -> None:
    assert batches_per_epoch(1_281_167, 512, 8) == 312
    lr = [{"epochs": [0, 2], "from": 1.0, "to": 2.0}]
    schedule = Schedule(phases=[{"epochs": [0, 2], "px": 128, "batch_per_gpu": 4, "data": 160, "lr": lr}])
    rows = list(plan.planned_batches(schedule, {"160": 10}, 1))
    assert [(r.epoch, r.batch, r.batches) for r in rows] == [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert [r.lr for r in rows] == [1.25, 1.5, 1.75, 2.0]


def test_table_has_a_row_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*TITAN8, "--train_images=1281167"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 28
    first = lines[1].split()
    # 1,281,167 // 4,096 = 312 batches; lr of the first: 1 + 1 / (7 * 312)
    assert first[:9] == ["1", "160", "128", "512", "4096", "1.000458", "1.142857", "312", "1277952"]
    assert "val_full rectangles, batch 128" in lines[-1]


def test_table_of_many_images_does_not_go_through_all_batches() -> None:
    lr = [{"epochs": [0, 2], "from": 1.0, "to": 0.0}]
    schedule = Schedule(phases=[{"epochs": [0, 2], "px": 128, "batch_per_gpu": 1, "data": 160, "lr": lr}])
    _, _, last = plan.epoch_lines(schedule, {"160": 10**15}, 1)
    assert last.split()[5:8] == ["0.500000", "0.000000", str(10**15)]


def test_csv_that_cannot_be_written_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, what in ((tmp_path / "none/a.csv", "No such file or directory"), (tmp_path, "Is a directory")):
        assert plan.main([*TITAN8, f"--csv={path}", "--train_images=12500"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"training.plan: error: {path}: {what}"
    assert not list(tmp_path.parent.glob("*.partial*"))


def test_csv_has_a_row_per_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.csv"
    one_gpu = ["--schedule.gpus=1", "--train_images=12500"]
    assert plan.main([*TITAN8, f"--csv={path}", *one_gpu]) == 0
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", f"{path}: 1,263 batches of 28 epochs on 1 GPU")
    rows = path.read_text().splitlines()
    assert rows[0] == "epoch,batch,batches,px,batch_per_gpu,set,lr"
    assert len(rows) == 1 + 13 * 24 + 12 * 55 + 3 * 97
    assert rows[1].startswith("1,1,24,128,512,160,1.005952")
    assert rows[-1] == "28,97,97,288,128,full,0.00025"


@pytest.mark.parametrize(
    ("argv", "note", "batch"),
    [
        ([], "GPUs of the global batch: 8; processes: one for each GPU; batches that each accumulates: 1", "4096"),
        (
            ["--dist.emulate_gpus=8", "--dist.processes=2"],
            "GPUs of the global batch: 8; processes: 2; batches that each accumulates: 4",
            "4096",
        ),
        (
            ["--dist.emulate_gpus=16"],
            "GPUs of the global batch: 16; processes: one for each GPU; batches that each accumulates: 16 / processes; "
            "GPUs that the learning rates are meant for: 8",
            "8192",
        ),
        (
            ["--dist.device=cpu"],
            "GPUs of the global batch: 1; processes: 1; batches that each accumulates: 1; "
            "GPUs that the learning rates are meant for: 8",
            "512",
        ),
    ],
)
def test_plan_says_who_shares_the_global_batch(
    argv: list[str], note: str, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main([*TITAN8, "--train_images=1281167", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == f"note: {note}\n"
    assert out.splitlines()[1].split()[4] == batch


def test_ramps_of_momentum_are_in_table_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.csv"
    aiacc8 = [*arguments("aiacc8"), "--train_images=1281167"]
    assert plan.main(aiacc8) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "momentum from" in heading
    # From 0.96 to 0.90 over 5 epochs: 0.96 - 0.06 / (5 · 625) in the first batch, 0.948 in the last of the epoch.
    assert lines[0].split()[7:9] == ["0.9600", "0.9480"]
    assert plan.main([*aiacc8, f"--csv={path}"]) == 0
    rows = path.read_text().splitlines()
    assert rows[0] == "epoch,batch,batches,px,batch_per_gpu,set,lr,momentum"
    assert float(rows[1].split(",")[-1]) == pytest.approx(0.96 - 0.06 / 3125)
    assert rows[-1].endswith(",0.96")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "run write_datasets.py --data.source=SOURCE --data.out={}"),
        ([], "or give --train_images=1281167"),
        (["--train_images=4095"], "512 on 8 GPUs is 4096, but train_160 holds 4,095 images"),
        (["--train_images=40000", "--dist.processes=2", "--dist.emulate_gpus=3"], "not a multiple of the 2 processes"),
    ],
)
def test_plan_without_images_or_a_full_batch_is_refused(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main([*TITAN8, f"--data.dir={tmp_path}", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(tmp_path) in err
