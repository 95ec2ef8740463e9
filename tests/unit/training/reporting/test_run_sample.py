"""Runs of one recipe as a sample, against numbers by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_folders import SESSION, run_folder

from training.reporting.report_html import page
from training.reporting.run_folder import RunFolder, read_runs
from training.reporting.run_sample import sample_summary, samples

BEFORE = [50.0] * 26  # of titan8's 28 epochs
# Last two epochs: at the target at the end, only before it, never, and at it for longer.
LAST = ([92.9, 93.1], [93.0, 92.9], [92.5, 92.8], [93.2, 93.2])


def runs_of(path: Path, ends: Sequence[Sequence[float]] = LAST, *, argv: Sequence[str] = ()) -> list[RunFolder]:
    folders = [
        run_folder(path / str(seed), [*BEFORE, *end], hours_an_epoch=0.1, argv=[f"--run.seed={seed}", *argv])
        for seed, end in enumerate(ends)
    ]
    return read_runs(folders)


def test_sample_says_mean_spread_and_share(tmp_path: Path) -> None:
    (sample,) = samples(runs_of(tmp_path))
    said = dict(sample_summary(sample))
    assert sample.title == "4 runs of one recipe"
    assert said["top-5, last epoch"] == "mean 93.000 %, sd 0.183 (92.800 to 93.200)"
    assert said["top-1, last epoch"].startswith("mean 73.000 %")
    assert said["93 % in the last epoch"] == "2 of 4, 50 % (95 % interval 15 to 85 %)"
    assert said["93 % in any epoch"].startswith("3 of 4, 75 %")
    # After 28, 27 and 27 epochs of 0.1 h.
    assert said["time to 93 %"].startswith(
        "mean 2.7333 h, sd 3.46 min, of the 3 that reached it; by the first epoch at"
    )
    assert "optional stopping" in said["time to 93 %"]
    assert "93.02 to 93.05 % lie 0.02 to 0.05 above 93 %" in said["against the published"]
    assert said["seeds"] == "4 in 4 runs"
    assert "left out" not in said


@pytest.mark.parametrize("scores", [[93.5], [*BEFORE, 93.5, float("nan")]])
def test_runs_that_are_not_complete_are_left_out(tmp_path: Path, scores: list[float]) -> None:
    started = read_runs([run_folder(tmp_path / "started", scores)])
    (sample,) = samples([*runs_of(tmp_path), *started])
    assert len(sample.runs) == 4
    assert dict(sample_summary(sample))["left out"] == "1 run without scores of the last epoch"
    assert samples([*runs_of(tmp_path / "one", LAST[:1]), *started]) == []


@pytest.mark.parametrize(
    "other",
    ["--train.weight_decay=5e-5", "--model.blurpool=true", "--train.flip_tta=true", "--run.init_from=resnet50.pth"],
)
def test_runs_of_other_recipes_are_no_sample(tmp_path: Path, other: str) -> None:
    both = [*runs_of(tmp_path / "a", LAST[:1]), *runs_of(tmp_path / "b", LAST[1:2], argv=[other])]
    assert samples(both) == []


def test_what_changes_no_result_does_not_part_runs(tmp_path: Path) -> None:
    argv = ["--train.compile=off", "--run.dir=elsewhere", "--log.seconds=1", "--data.workers=3"]
    both = [*runs_of(tmp_path / "a", LAST[:1]), *runs_of(tmp_path / "b", LAST[1:2], argv=argv)]
    (sample,) = samples(both)
    assert dict(sample_summary(sample))["seeds"].startswith("1 in 2 runs; runs of one seed differ by rounding alone")


def test_top5_of_few_classes_says_nothing(tmp_path: Path) -> None:
    few = replace(SESSION, classes=10)
    folders = [run_folder(tmp_path / str(i), [*BEFORE, 97, 99 + i / 2], [few]) for i in range(2)]
    (sample,) = samples(read_runs(folders))
    assert [name for name, _ in sample_summary(sample)] == ["top-1, last epoch", "seeds"]


def test_published_runs_stand_beside_runs_on_imagenet_alone(tmp_path: Path) -> None:
    hundred = replace(SESSION, classes=100)
    folders = [run_folder(tmp_path / str(i), [*BEFORE, 97, 99], [hundred]) for i in range(2)]
    said = dict(sample_summary(samples(read_runs(folders))[0]))
    assert "93 % in any epoch" in said
    assert "against the published" not in said


def test_page_shows_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.reporting.report_html.svg_elements", lambda runs: iter(()))
    runs = runs_of(tmp_path)
    html = page(runs, None, samples(runs))
    assert "<h2>4 runs of one recipe</h2>" in html
    assert "<dt>93 % in the last epoch</dt><dd>2 of 4, 50 %" in html
    assert "of one recipe</h2>" not in page(runs[:1], None, samples(runs[:1]))
