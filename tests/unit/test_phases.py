"""The schedule: published ramps, tiling, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from data_tools.common.options import OptionError, parse
from training.config import imagenet18
from training.config.phases_yaml import from_phases, to_phases
from training.config.run_config import RunConfig
from training.config.schedule import LrRamp, Schedule, batches_per_epoch, default_val_batch
from training.plan import plan

RECIPES = Path(__file__).parents[2] / "rn50_configs"
L4, L8, L16 = 2.0, 1.92, 1.88

# The published one-line schedules, word for word but for the learning-rate constants written out.
PUBLISHED = {
    "titan8": [
        {"ep": 0, "sz": 128, "bs": 512, "trndir": "-sz/160"},
        {"ep": (0, 7), "lr": (1.0, 2.0)},
        {"ep": (7, 13), "lr": (2.0, 0.25)},
        {"ep": 13, "sz": 224, "bs": 224, "trndir": "-sz/320", "min_scale": 0.087},
        {"ep": (13, 22), "lr": (0.4375, 0.04375)},
        {"ep": (22, 25), "lr": (0.04375, 0.004375)},
        {"ep": 25, "sz": 288, "bs": 128, "min_scale": 0.5, "rect_val": True},
        {"ep": (25, 28), "lr": (0.0025, 0.00025)},
    ],
    "cloud4": [
        {"ep": 0, "sz": 128, "bs": 256, "trndir": "-sz/160"},
        {"ep": (0, 8), "lr": (0.5, 1.0)},
        {"ep": (8, 15), "lr": (1.0, 0.125)},
        {"ep": 15, "sz": 224, "bs": 112, "trndir": "-sz/320", "min_scale": 0.087},
        {"ep": (15, 25), "lr": (0.22, 0.022)},
        {"ep": (25, 28), "lr": (0.022, 0.0022)},
        {"ep": 28, "sz": 288, "bs": 64, "min_scale": 0.5, "rect_val": True},
        {"ep": (28, 29), "lr": (0.00125, 0.000125)},
    ],
    "machines4": [
        {"ep": 0, "sz": 128, "bs": 256, "trndir": "-sz/160"},
        {"ep": (0, 6), "lr": (L4, 2 * L4)},
        {"ep": 6, "sz": 128, "bs": 512, "keep_dl": True},
        {"ep": 6, "lr": 2 * L4},
        {"ep": (11, 13), "lr": (2 * L4, L4)},
        {"ep": 13, "sz": 224, "bs": 224, "trndir": "-sz/352", "min_scale": 0.087},
        {"ep": 13, "lr": 0.875 * L4},
        {"ep": (16, 24), "lr": (0.875 * L4, 0.0875 * L4)},
        {"ep": (24, 28), "lr": (0.0875 * L4, 0.00875 * L4)},
        {"ep": 28, "sz": 288, "bs": 128, "min_scale": 0.5, "rect_val": True},
        {"ep": (28, 30), "lr": (0.005 * L4, 0.0005 * L4)},
    ],
    "machines8": [
        {"ep": 0, "sz": 128, "bs": 128, "trndir": "-sz/160"},
        {"ep": (0, 6), "lr": (L8, 2 * L8)},
        {"ep": 6, "bs": 256, "keep_dl": True, "lr": 2 * L8},
        {"ep": (11, 14), "lr": (2 * L8, L8)},
        {"ep": 14, "sz": 224, "bs": 128, "trndir": "-sz/352", "min_scale": 0.087, "lr": L8},
        {"ep": 17, "bs": 224, "keep_dl": True},
        {"ep": (17, 23), "lr": (L8, 0.175 * L8)},
        {"ep": (23, 29), "lr": (0.175 * L8, 0.0175 * L8)},
        {"ep": 29, "sz": 288, "bs": 128, "min_scale": 0.5, "rect_val": True},
        {"ep": (29, 36), "lr": (0.01 * L8, 0.001 * L8)},
    ],
    "machines16": [
        {"ep": 0, "sz": 128, "bs": 64, "trndir": "-sz/160"},
        {"ep": (0, 6), "lr": (L16, 2 * L16)},
        {"ep": 6, "bs": 128, "keep_dl": True},
        {"ep": 6, "lr": 2 * L16},
        {"ep": 16, "sz": 224, "bs": 64},
        {"ep": 16, "lr": L16},
        {"ep": 19, "bs": 192, "keep_dl": True},
        {"ep": 19, "lr": 0.3 * L16},
        {"ep": 31, "lr": 0.03 * L16},
        {"ep": 37, "sz": 288, "bs": 128, "min_scale": 0.5, "rect_val": True},
        {"ep": 37, "lr": 0.02 * L16},
        {"ep": (38, 50), "lr": 0.002 * L16},
    ],
}


def recipe(name: str) -> Schedule:
    return parse(RunConfig, ["--config-file", str(RECIPES / f"{name}.yaml")], prog="test").schedule.parsed


def phase(**changes: object) -> dict[str, object]:
    lr = [{"epochs": [0, 2], "from": 1.0, "to": 2.0}]
    return {"epochs": [0, 2], "px": 128, "batch_per_gpu": 4, "data": 160, "lr": lr} | changes


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_is_the_published_schedule_step_for_step(name: str) -> None:
    published, ours = imagenet18.parse(repr(PUBLISHED[name])), recipe(name)
    assert ours.phases == published.phases
    images = {phase.data: 1_281_167 for phase in ours.phases}
    for mine, theirs in zip(plan(ours, images, 64), plan(published, images, 64), strict=True):
        assert (mine.epoch, mine.batch, mine.batches) == (theirs.epoch, theirs.batch, theirs.batches)
        assert mine.lr == pytest.approx(theirs.lr, rel=1e-12)


def test_published_rates() -> None:
    assert recipe("machines8").lr(0, 1, 157) == 1.9220382165605094
    assert recipe("titan8").lr(24, 626, 626) == 0.004375
    # By hand: 0.4375 - 0.39375 * (3 * 100 + 50) / (9 * 100)
    assert recipe("titan8").lr(16, 50, 100) == pytest.approx(0.284375, rel=1e-12)


def test_published_val_batches_and_sets() -> None:
    titan8 = recipe("titan8")
    assert [p.val_batch for p in titan8.phases] == [512, 256, 128]
    assert [default_val_batch(px, bs) for px, bs in ((128, 1024), (224, 192), (288, 64))] == [1024, 256, 128]
    assert titan8.betons() == ("train_160", "val_160", "train_320", "val_320", "train_full", "val_full")
    assert [p.rectangular_val for p in titan8.phases] == [False, False, True]
    assert [p.min_scale for p in titan8.phases] == [0.08, 0.087, 0.5]


def test_valdir_names_another_set() -> None:
    """As the published code spells it."""
    entry = {"ep": 0, "sz": 128, "bs": 64, "trndir": "-sz/160", "valdir": "-sz/320"}
    (only,) = imagenet18.parse(repr([entry, {"ep": (0, 2), "lr": 1.0}])).phases
    assert (only.data, only.val_data) == ("160", "320")


def test_keep_dl_keeps_set_and_size() -> None:
    first, second = imagenet18.parse(repr(PUBLISHED["machines16"])).phases[:2]
    assert (first.data, first.px, first.batch_per_gpu) == ("160", 128, 64)
    assert (second.data, second.px, second.batch_per_gpu) == ("160", 128, 128)


def test_a_ramp_may_cross_a_change_of_batch() -> None:
    crossing = imagenet18.parse(
        "[{'ep': 0, 'sz': 64, 'bs': 8}, {'ep': 2, 'bs': 16, 'keep_dl': True}, {'ep': (0, 4), 'lr': (0.0, 4.0)}]"
    )
    assert crossing.lr(1, 10, 10) == 2.0
    assert crossing.lr(2, 1, 5) == pytest.approx(2.2)


def test_ramp_ends_exactly() -> None:
    ramp = LrRamp(start=0, end=3, lr_from=0.1, lr_to=0.3)
    assert ramp.at(2, 7, 7) == 0.3
    assert ramp.at(0, 1, 7) == pytest.approx(0.1 + 0.2 / 21)


def test_phase_lookup() -> None:
    titan8 = recipe("titan8")
    assert [titan8.phase(e).px for e in (0, 12, 13, 24, 25, 27)] == [128, 128, 224, 224, 288, 288]
    with pytest.raises(IndexError, match="epoch 28"):
        titan8.phase(28)


def test_plan_drops_the_ragged_rest() -> None:
    assert batches_per_epoch(1_281_167, 512, 8) == 312
    rows = list(plan(from_phases([phase()]), {"160": 10}, 1))
    assert [(r.epoch, r.batch, r.batches) for r in rows] == [(0, 1, 2), (0, 2, 2), (1, 1, 2), (1, 2, 2)]
    assert [r.lr for r in rows] == [1.25, 1.5, 1.75, 2.0]


def test_px_ramp_in_steps_of_32() -> None:
    ramp = {"from": 128, "epochs": [2, 6]}
    lr = [{"epochs": [0, 8], "from": 1.0, "to": 1.0}]
    ramped = from_phases([phase(epochs=[0, 8], px=224, px_ramp=ramp, lr=lr)])
    # Linear between epochs 2 and 6: 128, 152, 176, 200, 224; to multiples of 32: 128, 160, 192 (5.5 to even), 192, 224.
    assert [ramped.phase(e).px for e in range(8)] == [128, 128, 128, 160, 192, 192, 224, 224]
    assert [(p.start, p.end) for p in ramped.phases] == [(0, 3), (3, 4), (4, 6), (6, 8)]
    assert [p.val_px for p in ramped.phases] == [128, 160, 192, 224]


def test_ffcv_recipes_change_size_where_ffcv_does() -> None:
    # ffcv-imagenet: np.round(np.interp(epoch, [start_ramp, end_ramp], [160, 192]) / 32) * 32
    for name, ramp, epochs in (("rn50_16_epochs", (11, 13), 16), ("rn50_88_epochs", (65, 76), 88)):
        ours = recipe(name)
        theirs = [int(np.round(np.interp(e, ramp, [160, 192]) / 32)) * 32 for e in range(epochs)]
        assert [ours.phase(e).px for e in range(epochs)] == theirs
        assert ours.lr(1, 10, 10) == 1.7
        assert {p.val_px for p in ours.phases} == {256}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([phase(batch_pre_gpu=3)], r"phases\[0\]\.batch_pre_gpu: unknown key; did you mean batch_per_gpu"),
        ([phase(px="128")], r"px: '128' is not a whole number"),
        ([phase(px=True)], "px: True is not a whole number"),
        ([phase(px=0)], "px: 0 is outside"),
        ([phase(batch_per_gpu=-1)], "batch_per_gpu: -1 is outside"),
        ([phase(min_scale=float("nan"))], "min_scale: nan is not a finite number"),
        ([phase(min_scale=1.5)], "min_scale: 1.5 is outside"),
        ([phase(data="-sz/160")], "is no beton set"),
        ([phase(rectangular_val="yes please")], "neither true nor false"),
        ([phase(epochs=[2, 0])], "runs backwards"),
        ([phase(epochs=[0])], "has no end"),
        ([phase(lr=[{"epochs": [0, 2], "from": 1.0}])], r"lr\[0\]\.to: missing"),
        ([phase(lr=[{"epochs": [0], "from": 1.0, "to": 1.0}])], "has no end"),
        ([phase(lr=[{"epochs": [0, 2], "from": float("inf"), "to": 1.0}])], "inf is not a finite number"),
        ([phase(lr=[{"epochs": [0, 2], "from": -1.0, "to": 1.0}])], "not a learning rate"),
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
def test_refused_phases(phases: object, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        from_phases(phases)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "not a list of literals"),
        ("[{'ep': 0, 'sz': 128, 'bs': 2**9}]", "not a list of literals"),
        ("[{'ep': 0, 'size': 128, 'bs': 512}]", "unknown key 'size'"),
        ("[{'sz': 128, 'bs': 512}]", "no 'ep'"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': 0, 'lr': 1.0}]", "has no end"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': (0, 3), 'lr': (1.0,)}]", "has no end"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512, 'trndir': '/data'}, {'ep': (0, 3), 'lr': 1.0}]", "neither ''"),
        ("[{'ep': 0, 'bs': 512, 'keep_dl': True}, {'ep': (0, 3), 'lr': 1.0}]", "there is none"),
        ("[{'ep': (0, 3), 'lr': 1.0}]", "no entry with"),
        ("[]", "not a list of phases"),
        ("{", "not a list of literals"),
    ],
)
def test_refused_imagenet18(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        imagenet18.parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_schedule_as_a_list_of_phases_is_the_same(recipe: Path) -> None:
    schedule = parse(RunConfig, ["--config-file", str(recipe)], prog="test").schedule.parsed
    listed = to_phases(schedule)
    assert from_phases(yaml.safe_load(yaml.safe_dump(listed))) == schedule
