"""The estimate as a user asks for it."""

import re

import pytest
from helpers.recipes import RECIPES

from training import estimate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu=gtx-1080-ti"], "--measure times it"),
        (["--gpu=rtx-509"], "did you mean rtx-5090?"),
        (["--machines=3"], "8 GPUs cannot be divided evenly among 3 machines"),
        (["--gpus=3", "--dist.emulate_gpus=8"], "dist.emulate_gpus: 8 is not a multiple of the 3 processes"),
        (["--model.arch=resnet152"], "of a resnet50, not of a resnet152; --measure times it on this machine"),
        (["--cache_gb=100"], "has no effect without --disk_mb_s"),
        (["--gpu=h100", "--measure=true"], "--gpu: has no effect with --measure"),
    ],
)
def test_mistakes_are_answered_with_a_remedy(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert estimate.main(["--config-file", str(RECIPES["titan8"]), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_measured_network_sends_its_own_gradients(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision")
    measured = 3600.0, 1e-6
    monkeypatch.setattr("training.engine.synthetic_benchmark.measure", lambda config, px, batch: measured)
    arguments = ["--config-file", str(RECIPES["titan8"]), "--measure=true", "--machines=2", "--network-gbit=1"]
    for arch, parameters in (("resnet18", 11_689_512), ("resnet50", 25_557_032)):
        assert estimate.main([*arguments, f"--model.arch={arch}"]) == 0
        seconds = parameters * 4 * 8 / 0.3e9  # of the whole gradient, as each of two machines sends it
        printed = capsys.readouterr().out
        assert f"of the all-reduce's {1000 * seconds:.0f} ms" in printed
        hours = re.findall(r"^ *[\d-]+ +\d+ +\d+ +([\d.]+)", printed, re.MULTILINE)
        assert [float(each) > 1 for each in hours] == [True, True, True]  # an hour until the first step


def test_source_cost_and_what_is_assumed_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config-file", str(RECIPES["h200"]), "--gpu=h200", "--price", "2"]
    printed = []
    for more in ([], ["--train_images=20000"]):
        assert estimate.main([*arguments, *more]) == 0
        printed.append(capsys.readouterr().out.splitlines())
    whole, part = printed
    source = "this project's compiled step on one card, torch 2.11 (benchmarks/results/gpu.md)"
    assert whole[0] == part[0] == f"28 epochs on 1 GPU; h200: {source}"
    assert whole[-2] == "assumed to keep up: the loader (--cores_per_gpu) and the disk (--disk_mb_s)"
    assert whole[-1] != part[-1]
    assert whole[-1].endswith(" at 2 per GPU-hour")


def test_what_bounds_each_phase_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["--config-file", str(RECIPES["machines16"]), "--gpu=v100-run"]
    assert estimate.main([*recipe, "--cores-per-gpu=8", "--disk-mb-s=500"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("50 epochs on 128 GPUs in 16 machines, 25 Gbit/s; v100-run: ")
    assert "the network: 83 ms of the all-reduce's 104 ms are not hidden" in printed[2]
    assert "the cards: " in printed[6]
    assert not [line for line in printed if "keep up" in line]
    assert estimate.main([*recipe, "--cores_per_gpu=0.1", "--machines=128"]) == 0
    assert "the loader: " in capsys.readouterr().out
    assert estimate.main([*recipe, "--gpus=18"]) == 0
    assert "on 18 GPUs in 3 machines, 25 Gbit/s" in capsys.readouterr().out
