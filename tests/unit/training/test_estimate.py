"""Predicted hours, against the published run and against numbers by hand."""

import pytest
from helpers.recipes import RECIPES, schedule

from training import estimate


def test_published_rates_predict_the_published_hours() -> None:
    times = estimate.card_times(schedule("titan8"), estimate.CARDS["titan8-run"], 8, 1_281_167, 50_000)
    assert estimate.hours_after(times, 27) == pytest.approx(2.3657, rel=0.03)
    # The published table's own marks at the ends of the first two phases.
    assert estimate.hours_after(times, 13) == pytest.approx(0.5174, rel=0.03)
    assert estimate.hours_after(times, 25) == pytest.approx(1.8957, rel=0.03)


def test_phase_times_by_hand() -> None:
    card = estimate.Card(rates={128: 100.0}, source="none")
    times = estimate.card_times(schedule("titan8"), card, 8, 4096, 300)
    # One batch of 4,096 and 300 / 3 validation images an epoch, 13 epochs, 800 images a second.
    assert times[0].seconds == pytest.approx(13 * (4096 + 100) / 800)
    assert times[1].images_per_s_per_gpu == pytest.approx(100 * (128 / 224) ** 2)
    assert estimate.hours_after(times, 0) == 0
    assert estimate.hours_after(times, 99) == pytest.approx(sum(t.seconds for t in times) / 3600)


@pytest.mark.parametrize(
    "wrong", ["--gpus=0", "--gpus=-8", "--price=-1", "--data.train_images=0", "--val_images=-5", "--schedule.gpus=0"]
)
def test_numbers_out_of_range_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate.main(["--config-file", str(RECIPES["titan8"]), wrong]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "is out of range" in printed.err


@pytest.mark.parametrize(("gpus", "train", "val"), [(0, 4096, 300), (-1, 4096, 300), (1, 0, 300), (1, 4096, -1)])
def test_estimate_in_python_refuses_what_cannot_be(gpus: int, train: int, val: int) -> None:
    with pytest.raises(ValueError, match="no estimate"):
        estimate.card_times(schedule("titan8"), estimate.CARDS["h100"], gpus, train, val)


def test_images_of_the_plan_are_those_of_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config-file", str(RECIPES["h200"]), "--gpu=h200", "--price=0"]
    assert estimate.main(arguments) == 0
    whole = capsys.readouterr().out.splitlines()
    assert estimate.main([*arguments, "--data.train_images=20000"]) == 0
    part = capsys.readouterr().out.splitlines()
    assert whole[0] == part[0] == "28 epochs on 1 GPU; h200: NVIDIA's examples, AMP, synthetic images"
    assert whole[-1] != part[-1]
    assert part[-1].endswith("0.00 at 0 per GPU-hour")
    assert estimate.main([*arguments, "--train-images=20000"]) == 2
    assert "option --train_images is now --data.train_images" in capsys.readouterr().err


def test_command_prints_source_and_price(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES["titan8"])
    assert estimate.main(["--config-file", recipe, "--gpu", "h200", "--gpus", "8", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    assert "NVIDIA's examples" in printed
    assert "at 2 per GPU-hour" in printed
    assert estimate.main(["--config-file", "none.yaml"]) == 2
    assert "none.yaml" in capsys.readouterr().err
