"""Schedules as the published code spells them."""

import pytest
from helpers.recipes import mistakes, schedule

from training.config.schedule import Schedule
from training.plan import planned_batches

L4, L8, L16 = 2.0, 1.92, 1.88

# The published one-line schedules, word for word except for the learning-rate constants, which are written out.
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


def published(text: str) -> Schedule:
    return Schedule(imagenet18=text)


def test_none_unsets_it() -> None:
    phases = schedule("titan8").phases
    assert Schedule(phases=phases, imagenet18="none").phases == phases


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_equals_the_published_schedule_in_every_step(name: str) -> None:
    theirs, ours = published(repr(PUBLISHED[name])), schedule(name)
    assert [p.model_copy(update={"lr": ()}) for p in ours.phases] == [
        p.model_copy(update={"lr": ()}) for p in theirs.phases
    ]
    images = {phase.data: 1_281_167 for phase in ours.phases}
    for mine, their in zip(planned_batches(ours, images, 64), planned_batches(theirs, images, 64), strict=True):
        assert (mine.epoch, mine.batch, mine.batches) == (their.epoch, their.batch, their.batches)
        assert mine.lr == pytest.approx(their.lr, rel=1e-12)


def test_valdir_names_another_validation_set() -> None:
    entry = {"ep": 0, "sz": 128, "bs": 64, "trndir": "-sz/160", "valdir": "-sz/320"}
    (only,) = published(repr([entry, {"ep": (0, 2), "lr": 1.0}])).phases
    assert (only.data, only.val_data) == ("160", "320")


def test_keep_dl_keeps_set_and_size() -> None:
    first, second = published(repr(PUBLISHED["machines16"])).phases[:2]
    assert (first.data, first.px, first.batch_per_gpu) == ("160", 128, 64)
    assert (second.data, second.px, second.batch_per_gpu) == ("160", 128, 128)


def test_ramp_may_cross_a_change_of_batch_size() -> None:
    crossing = published(
        "[{'ep': 0, 'sz': 64, 'bs': 8}, {'ep': 2, 'bs': 16, 'keep_dl': True}, {'ep': (0, 4), 'lr': (0.0, 4.0)}]"
    )
    assert crossing.lr(1, 10, 10) == 2.0
    assert crossing.lr(2, 1, 5) == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "not a list of literals"),
        ("[{'ep': 0, 'sz': 128, 'bs': 2**9}]", "not a list of literals"),
        ("[{'ep': 0, 'size': 128, 'bs': 512}]", "unknown key 'size'"),
        ("[{'sz': 128, 'bs': 512}]", "no 'ep'"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': (0, 3), 'lr': 1.0}, {'ep': (3, 'x'), 'lr': 1.0}]", "no 'ep' of"),
        ("[{'ep': [], 'sz': 128, 'bs': 512}, {'ep': (0, 3), 'lr': 1.0}]", "no 'ep' of"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}]", "no entry with 'lr'"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': 0, 'lr': 1.0}]", "has no end"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': (0, 3), 'lr': (1.0,)}]", "is not a ramp"),
        ("[{'ep': 0, 'sz': 128, 'bs': 512, 'trndir': '/data'}, {'ep': (0, 3), 'lr': 1.0}]", "neither ''"),
        ("[{'ep': 0, 'bs': 512, 'keep_dl': True}, {'ep': (0, 3), 'lr': 1.0}]", "there is none"),
        ("[{'ep': (0, 3), 'lr': 1.0}]", "no entry with"),
        ("[]", "not a list of phases"),
        ("{", "not a list of literals"),
        ("nan", "not a list of literals (malformed node or string on line 1)"),
    ],
)
def test_wrong_schedule_is_refused(text: str, message: str) -> None:
    (mistake,) = mistakes(Schedule, {"imagenet18": text})
    assert mistake.where == "imagenet18"
    assert message in str(mistake)
