"""The `phases` of a recipe: how they are read and refused."""

import pytest
from helpers.recipes import RECIPES, config, mistakes

from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Schedule

RAMP: dict[str, object] = {"epochs": [0, 2], "from": 1.0, "to": 2.0}


def phase(**changes: object) -> dict[str, object]:
    return {"epochs": [0, 2], "px": 128, "batch_per_gpu": 4, "data": 160, "lr": [RAMP]} | changes


def test_px_ramp_in_steps_of_32() -> None:
    ramp = {"from": 128, "epochs": [2, 6]}
    lr = [{"epochs": [0, 8], "from": 1.0, "to": 1.0}]
    ramped = Schedule(phases=[phase(epochs=[0, 8], px=224, px_ramp=ramp, lr=lr)])
    # Linear between epochs 2 and 6: 128, 152, 176, 200, 224; to multiples of 32: 128, 160, 192 (5.5 to even), 192, 224.
    assert [ramped.phase(e).px for e in range(8)] == [128, 128, 128, 160, 192, 192, 224, 224]
    assert [p.epochs for p in ramped.phases] == [(0, 3), (3, 4), (4, 6), (6, 8)]
    assert [p.val_px for p in ramped.phases] == [128, 160, 192, 224]
    assert [len(p.lr) for p in ramped.phases] == [1, 0, 0, 0]


def test_px_ramp_in_other_steps_between_fractions_of_epochs() -> None:
    ramp = {"from": 88, "epochs": [0.5, 2.5], "multiple": 4}
    lr = [{"epochs": [0, 4], "from": 1.0, "to": 1.0}]
    ramped = Schedule(phases=[phase(epochs=[0, 4], px=176, px_ramp=ramp, lr=lr)])
    # 88 + 88 · (e - 0.5) / 2: 110 and 154 in epochs 1 and 2; to multiples of 4: 112 (27.5 to even) and 152 (38.5).
    assert [ramped.phase(e).px for e in range(4)] == [88, 112, 152, 176]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([phase(), phase(epochs=[2, 4], px=5000, lr=[])], "phases[1].px: 5000 is out of range"),
        ([phase(lr=[RAMP, {**RAMP, "to": -1.0}])], "phases[0].lr[1].to: -1.0 is out of range (at least 0)"),
        ([phase(epochs=[0, 100_001])], "phases[0].epochs: [0, 100001] has more than 100,000 epochs"),
        ([phase(data="-sz/160")], "phases[0].data: '-sz/160' is not a beton set; give a cap in px, or full"),
        ([phase(val_data="064")], "phases[0].val_data: '064' is not a beton set"),
        ([phase(epochs=[2, 0])], "phases[0].epochs: [2, 0] is empty or runs backwards"),
        ([phase(epochs=[0])], "phases[0].epochs: [0] is not a pair of epochs"),
        ([phase(lr=[{**RAMP, "shape": "polynomial"}])], "phases[0].lr[0].power: missing"),
        ([phase(lr=[{**RAMP, "power": 2}])], "phases[0].lr[0].power: only for shape: polynomial"),
        ([phase(momentum=[{"epochs": [0, 1], "from": 0.9, "to": 0.8}])], "no momentum for epoch 2"),
        ([phase(momentum=[{**RAMP, "to": 0.8}])], "phases[0].momentum[0].from: 1.0 is not a momentum"),
        ([phase(px_ramp={"from": 8, "epochs": [0, 2], "multiple": 4000})], "phases.px: 0 is out of range"),
        ([phase(px_ramp={"from": 64, "epochs": [2, 1]})], "phases[0].px_ramp.epochs: [2.0, 1.0] is empty or runs"),
        ([phase(val_resize=100)], "phases[0].val_resize: 100 is smaller than the crop of 128 px"),
        ([phase(lr=[])], "phases[].lr[].epochs: no learning rate for epochs 1 to 2"),
        ([phase(lr=[{"epochs": [0, 1], "from": 1.0, "to": 1.0}])], "no learning rate for epoch 2"),
        ([phase(lr=[{"epochs": [0, 3], "from": 1.0, "to": 1.0}])], "a learning rate but no phase for epoch 3"),
        ([phase(), phase(epochs=[3, 4], lr=[])], "phases[].epochs: gap at epoch 3"),
        ([phase(), phase(epochs=[1, 4], lr=[])], "phases[].epochs: overlap at epoch 2"),
        ([], "phases: empty; give at least one phase"),
        ([phase(batch_per_gpu=1, px=32)], "phases[0].batch_per_gpu: 1 at 32 px: BatchNorm would see one value"),
    ],
)
def test_wrong_phases_are_refused(phases: object, message: str) -> None:
    (mistake,) = mistakes(Schedule, {"phases": phases})
    assert message in str(mistake)


def test_batch_of_one_is_taken_where_batch_norm_sees_several_values() -> None:
    """torch says "Expected more than 1 value per channel when training" of a feature map of 1 x 1 x 1."""
    Schedule(phases=[phase(batch_per_gpu=1, px=33)])


@pytest.mark.parametrize("recipe", RECIPES)
def test_configuration_as_written_to_a_run_folder_gives_the_same(recipe: str) -> None:
    assert RunConfig(**as_mapping(config(recipe))) == config(recipe)
