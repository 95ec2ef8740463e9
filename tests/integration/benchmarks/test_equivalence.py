"""benchmarks/equivalence.py trains both ways on tiny data, continues, and prints its table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

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
