"""benchmarks/equivalence.py trains both ways on tiny data, continues, ends in time, and prints its table."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT
from helpers.recipes import ONE_EPOCH


@pytest.mark.slow
def test_an_interrupted_comparison_trains_only_what_is_missing(
    tmp_path: Path, sorted_tar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    equivalence = importlib.import_module("equivalence")
    recipe, results = tmp_path / "recipe.yaml", tmp_path / "results.jsonl"
    phases = [dict(phase) for phase in ONE_EPOCH]
    recipe.write_text(json.dumps({"model": {"arch": "resnet18"}, "schedule": {"phases": phases}}))
    command = [f"--source={sorted_tar}", f"--recipe={recipe}", f"--results={results}", "--device=cpu", "--seeds=2"]
    setting = equivalence.setting_of(equivalence.arguments(command))
    (tmp_path / "once").mkdir()
    equivalence.prepare(sorted_tar, "160", tmp_path / "once")
    setting |= {
        "betons": equivalence.beton_digests(tmp_path / "once/betons"),
        "date": "2026-11-01",
    }  # and goes on today
    assert set(setting["betons"]) == {"train_160", "val_160"}
    done = [
        {"arm": arm, "seed": 0, "top1": top1, "top5": top5, "train_loss": 1.0, "seconds": 1.0, "setting": setting}
        for arm, top1, top5 in (("ours", 10.125, 98.0), ("torchvision", 20.25, 99.0))
    ]
    results.write_text("".join(json.dumps(result) + "\n" for result in done))
    (tmp_path / "ours_1").mkdir()
    (tmp_path / "ours_1/last.pt").write_bytes(b"of a training that was killed")
    assert equivalence.main([*command, f"--work={tmp_path}"]) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert lines[:2] == done
    assert all(line["setting"] == setting for line in lines)
    assert {(line["arm"], line["seed"]) for line in lines[2:]} == {("ours", 1), ("torchvision", 1)}
    # 20 of the 40 training pictures are validated on, besides the 12.
    assert all(line["top1"] * 32 / 100 == pytest.approx(round(line["top1"] * 32 / 100), abs=1e-4) for line in lines[2:])
    table = capsys.readouterr().out
    assert "| 0 | 10.12 | 20.25 |" in table
    assert "| 1 | " in table and "not shown to be equivalent (2 seeds each" in table
    for key, other in (("commit", "abc"), ("date", "2026-11-02"), ("machine", "another"), ("betons", {})):
        mixed = [json.dumps(line) for line in (*lines[:-1], lines[-1] | {"setting": setting | {key: other}})]
        results.write_text("\n".join(mixed) + "\n")
        with pytest.raises(SystemExit, match=f"seed 1 had another {key}"):
            equivalence.main(command)
    recipe.write_text(recipe.read_text() + "\n")
    with pytest.raises(SystemExit, match="seed 0 had another recipe"):
        equivalence.main(command)


@pytest.fixture
def equivalence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With trainings that only say scores, and `prepare` that only writes the tar's name and the betons' folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("equivalence")

    def scores(options: object, work: Path, seed: int, cores: list[int]) -> dict[str, float]:
        return {"top1": 50.0 + seed, "top5": 90.0 + seed, "train_loss": 1.0 + seed}

    def prepare(source: Path, caps: str, work: Path) -> None:
        (work / "betons").mkdir()
        (work / "images").write_text(source.name)

    for name, value in {"_ours": scores, "_torchvision": scores, "prepare": prepare}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "photographs.tar").write_bytes(b"some")
    (tmp_path / "recipe.yaml").write_text(json.dumps({"schedule": {"phases": [dict(phase) for phase in ONE_EPOCH]}}))
    options = {"source": "photographs.tar", "recipe": "recipe.yaml", "results": "results.jsonl", "work": "work"}
    return ["--device=cpu", "--seeds=2", *(f"--{name}={tmp_path / file}" for name, file in options.items())]


def test_no_training_is_started_that_would_end_too_late(
    equivalence: ModuleType,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting = equivalence.setting_of(equivalence.arguments(command)) | {"betons": {}}
    done = {"arm": "ours", "seed": 0, "top1": 50.0, "top5": 90.0, "train_loss": 1.0, "setting": setting}
    results = tmp_path / "results.jsonl"

    def trained() -> list[tuple[str, int]]:
        return [(line["arm"], line["seed"]) for line in map(json.loads, results.read_text().splitlines())]

    results.write_text(json.dumps(done | {"seconds": 7300.0}) + "\n")
    # The other side has not been trained yet; it may take as long.
    assert equivalence.main([*command, "--minutes=120"]) == os.EX_TEMPFAIL
    assert "3 of 4 trainings remain, the longest so far took 7300 s" in capsys.readouterr().err
    assert trained() == [("ours", 0)]
    results.write_text(
        "".join(
            json.dumps(done | each) + "\n" for each in ({"seconds": 7300.0}, {"arm": "torchvision", "seconds": 60.0})
        )
    )
    assert equivalence.main([*command, "--minutes=120"]) == os.EX_TEMPFAIL
    assert "1 of 4 trainings remain" in capsys.readouterr().err
    assert trained()[2:] == [("torchvision", 1)]
    assert equivalence.main([*command, "--minutes=180"]) == 0
    assert trained()[3:] == [("ours", 1)]
    assert "| 1 | 51.00 | 51.00 |" in capsys.readouterr().out


def test_images_and_betons_are_made_once_and_only_for_their_source(
    equivalence: ModuleType, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = equivalence.prepare, []

    def interrupted(source: Path, caps: str, work: Path) -> None:
        prepare(source, caps, work)
        calls.append(caps)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(equivalence, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        equivalence.main(command)
    assert not (tmp_path / "results.jsonl").exists()
    for results in ("first.jsonl", "second.jsonl"):
        assert equivalence.main([*command, f"--results={tmp_path / results}"]) == 0
    assert calls == ["160", "160"]
    (tmp_path / "other.tar").write_bytes(b"others")
    with pytest.raises(SystemExit, match="made of another source; give another --work"):
        equivalence.main([*command, f"--source={tmp_path / 'other.tar'}"])
    assert (tmp_path / "work/data/images").read_text() == "photographs.tar"


@pytest.mark.parametrize(
    ("program", "more", "said"),
    [
        ("equivalence", ["--recipe=none.yaml"], "--recipe none.yaml: no such file"),
        ("equivalence", ["--device=cuda"], "--device cuda: nvidia-smi lists no GPU here"),
        ("equivalence", ["--source=."], ".: no such file"),
        ("load", ["--cases=none"], "--cases: invalid choice: 'none'"),
        ("load", ["--cores=9999"], "--cores: invalid choice: 9999"),
        ("load", ["--images=0"], "--images, --repeats: give 1 or more"),
        ("write", ["--repeats=0"], "--images, --repeats: give 1 or more"),
    ],
)
def test_mistakes_are_one_line(
    program: str,
    more: list[str],
    said: str,
    sorted_tar: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module(program)
    monkeypatch.setattr(importlib.import_module("equivalence"), "installed_gpus", lambda: ([], ""))
    with pytest.raises(SystemExit, match="2"):
        module.arguments([f"--source={sorted_tar}", *more])
    assert said in capsys.readouterr().err
