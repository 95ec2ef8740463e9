"""The `phases` list of a recipe: how it is read, written and refused."""

import pytest
import yaml
from helpers.recipes import RECIPES, schedule
from training.config.phases_yaml import from_phases, to_phases

from data_tools.common.options import OptionError

RAMP: dict[str, object] = {"epochs": [0, 2], "from": 1.0, "to": 2.0}


def phase(**changes: object) -> dict[str, object]:
    return {"epochs": [0, 2], "px": 128, "batch_per_gpu": 4, "data": 160, "lr": [RAMP]} | changes


def test_px_ramp_in_steps_of_32() -> None:
    ramp = {"from": 128, "epochs": [2, 6]}
    lr = [{"epochs": [0, 8], "from": 1.0, "to": 1.0}]
    ramped = from_phases([phase(epochs=[0, 8], px=224, px_ramp=ramp, lr=lr)])
    # Linear between epochs 2 and 6: 128, 152, 176, 200, 224; to multiples of 32: 128, 160, 192 (5.5 to even), 192, 224.
    assert [ramped.phase(e).px for e in range(8)] == [128, 128, 128, 160, 192, 192, 224, 224]
    assert [(p.start, p.end) for p in ramped.phases] == [(0, 3), (3, 4), (4, 6), (6, 8)]
    assert [p.val_px for p in ramped.phases] == [128, 160, 192, 224]


def test_px_ramp_in_other_steps_between_fractions_of_epochs() -> None:
    ramp = {"from": 88, "epochs": [0.5, 2.5], "multiple": 4}
    lr = [{"epochs": [0, 4], "from": 1.0, "to": 1.0}]
    ramped = from_phases([phase(epochs=[0, 4], px=176, px_ramp=ramp, lr=lr)])
    # 88 + 88 · (e - 0.5) / 2: 110 and 154 in epochs 1 and 2; to multiples of 4: 112 (27.5 to even) and 152 (38.5).
    assert [ramped.phase(e).px for e in range(4)] == [88, 112, 152, 176]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([phase(batch_pre_gpu=3)], r"phases\[0\]\.batch_pre_gpu: unknown key; did you mean batch_per_gpu"),
        ([phase(px="12x")], r"px: '12x' is not a whole number"),
        ([phase(px=True)], "px: True is not a whole number"),
        ([phase(px=0)], r"px: 0 is out of range \(8 to 4096\)"),
        ([phase(batch_per_gpu=-1)], "batch_per_gpu: -1 is out of range"),
        ([phase(), phase(epochs=[2, 4], px=5000, lr=[])], r"phases\[1\]\.px: 5000 is out of range"),
        ([phase(lr=[RAMP, {**RAMP, "to": -1.0}])], r"phases\[0\]\.lr\[1\]\.to: -1\.0 is not a learning rate"),
        ([phase(epochs=[0, 100_001])], "more than 100,000 epochs"),
        ([phase(min_scale=float("nan"))], "min_scale: nan is not a finite number"),
        ([phase(min_scale=1.5)], "min_scale: 1.5 is out of range"),
        ([phase(data="-sz/160")], "is not a beton set"),
        ([phase(rectangular_val="yes please")], "not a boolean"),
        ([phase(epochs=[2, 0])], "runs backwards"),
        ([phase(epochs=[0])], "has no end"),
        ([phase(lr=[{"epochs": [0, 2], "from": 1.0}])], r"lr\[0\]\.to: missing"),
        ([phase(lr=[{"epochs": [0], "from": 1.0, "to": 1.0}])], "has no end"),
        ([phase(lr=[{"epochs": [0, 2], "from": float("inf"), "to": 1.0}])], "inf is not a finite number"),
        ([phase(lr=[{"epochs": [0, 2], "from": -1.0, "to": 1.0}])], "not a learning rate"),
        (
            [phase(lr=[{**RAMP, "shape": "sine"}])],
            r"phases\[0\]\.lr\[0\]\.shape: 'sine' is not one of linear, cosine",
        ),
        ([phase(lr=[{**RAMP, "shape": "polynomial"}])], r"lr\[0\]\.power: missing"),
        ([phase(lr=[{**RAMP, "power": 2}])], "only for shape: polynomial"),
        ([phase(lr=[{**RAMP, "shape": "polynomial", "power": 0}])], "0.0 is not a number above 0"),
        ([phase(momentum=[{"epochs": [0, 1], "from": 0.9, "to": 0.8}])], "no momentum for epochs 1 to 2"),
        ([phase(momentum=[{"epochs": [0, 3], "from": 0.9, "to": 0.8}])], "a momentum but no phase"),
        ([phase(momentum=[{"epochs": [0, 2], "from": 1.0, "to": 0.8}])], r"momentum\[0\]\.from: 1.0 is not a momentum"),
        ([phase(px_ramp={"from": 64, "epochs": [0, 1], "multiple": 0})], "0 is not a number of px"),
        ([phase(val_resize=100)], "100 is smaller than the crop of 128 px"),
        ([phase(lr=[])], "no learning rate for epochs 0 to 2"),
        ([phase(lr=[{"epochs": [0, 1], "from": 1.0, "to": 1.0}])], "no learning rate for epochs 1 to 2"),
        ([phase(lr=[{"epochs": [0, 3], "from": 1.0, "to": 1.0}])], "a learning rate but no phase"),
        ([phase(), phase(epochs=[3, 4], lr=[])], "gap between epochs 2 and 3"),
        ([phase(), phase(epochs=[1, 4], lr=[])], "overlap between epochs 1 and 2"),
        ([], "empty"),
        ("titan8", "not a list"),
        ([["epochs", 3]], "not a mapping"),
    ],
)
def test_wrong_phases_are_refused(phases: object, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        from_phases(phases)
    assert "\n" not in str(refused.value)


def test_numbers_may_be_text_as_yaml_reads_1e_3() -> None:
    ramp = yaml.safe_load("{epochs: [0, 2], from: 1e-3, to: 2.0}")
    assert from_phases([phase(px="128", lr=[ramp])]).ramps[0].lr_from == 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_to_phases_gives_the_same_schedule(recipe: str) -> None:
    listed = to_phases(schedule(recipe))
    assert from_phases(yaml.safe_load(yaml.safe_dump(listed))) == schedule(recipe)
