"""Which changes of options a run may be continued with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_tools.common.options import OptionError
from training.config.continuation import check_changes, differences, options_of_result
from training.config.run_config import Run, RunConfig
from training.config.schedule import Schedule
from training.config.train_config import Model, Train

SOURCE = Path("runs/x/last.pt")
PHASE: dict[str, Any] = {"epochs": [0, 4], "px": 128, "batch_per_gpu": 64, "data": 160}
RATES = [{"epochs": [0, 2], "from": 0.1, "to": 0.5}, {"epochs": [2, 4], "from": 0.5, "to": 0.0}]
MORE = {**PHASE, "epochs": [4, 6], "px": 160, "lr": [{"epochs": [4, 6], "from": 0.1, "to": 0.0}]}


def options(*more: dict[str, Any], amp: str = "fp16", gpus: int = 8, **changes: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {"train": Train(), "model": Model(), "run": Run()}
    phase = {**PHASE, "lr": changes.pop("lr", RATES), **changes.pop("phase", {})}
    sections |= changes
    config = RunConfig(schedule=Schedule(phases=[phase, *more]), **sections)
    return options_of_result(config, amp=amp, gpus=gpus, digests={"train_160": "ab"}, classes=10)


def refusal(now: dict[str, Any]) -> list[str]:
    """The lines of the error without the checkpoint that each names."""
    with pytest.raises(OptionError) as error:
        check_changes(differences(options(), now), False, SOURCE)
    return [str(each).removeprefix(f"{SOURCE}: ") for each in (error.value, *error.value.others)]


def test_same_options_have_no_differences() -> None:
    assert differences(options(), options()) == []


@pytest.mark.parametrize(
    "now",
    [
        options(train=Train(compile="off")),
        options(model=Model(stem_blocks=True)),
        options(train=Train(flip_tta=True)),
        options(phase={"val_batch": 7, "rectangular_val": True}),
        options(phase={"val_resize": 140}),
        options(train=Train(amp="fp16")),  # what auto was
        options(MORE),
        options({**MORE, "data": 320}) | {"train_320": "cd", "val_320": "ef"},
        options(phase={"val_data": "full"}) | {"val_full": "ef"},
    ],
)
def test_harmless_changes_are_taken(now: dict[str, Any]) -> None:
    check_changes(differences(options(), now), False, SOURCE)


def test_longer_schedule_is_named_with_both_lengths() -> None:
    assert [str(each) for each in differences(options(), options(MORE)) if each.key == "schedule"] == [
        "schedule is 6, was 4 epochs"
    ]


@pytest.mark.parametrize(
    ("now", "key", "shown"),
    [
        (options(train=Train(loss_scale="dynamic")), "train.loss_scale", "is dynamic, was 1024.0"),
        (options(amp="bf16"), "train.amp", "is bf16, was fp16"),
        (options(gpus=4), "gpus", "is 4, was 8"),
        (options(run=Run(seed=1)), "run.seed", "is 1, was 0"),
        (options(run=Run(init_from=Path("a.pth"))), "run.init_from", "is a.pth, was None"),
        (options(train=Train(loss="bce")), "train.loss", "is bce, was cross_entropy"),
        (options(lr=[RATES[0], {**RATES[1], "shape": "cosine"}]), "schedule", "lr 0.5 to 0.25, cosine' in epoch 3"),
        (
            options(lr=[RATES[0], {**RATES[1], "shape": "polynomial", "power": 2}]),
            "schedule",
            "lr 0.5 to 0.125, polynomial 2' in epoch 3",
        ),
        (
            options(phase={"momentum": [{"epochs": [0, 4], "from": 0.96, "to": 0.9}]}),
            "schedule",
            "lr 0.1 to 0.3, momentum 0.96 to 0.945' in epoch 1",
        ),
        (
            options(lr=[{"epochs": [0, 2], "from": 0.1, "to": 0.5}, {"epochs": [2, 4], "from": 0.4, "to": 0.0}]),
            "schedule",
            "lr 0.4 to 0.2' in epoch 3, was '128 px of 160, batch 64, min_scale 0.08, lr 0.5 to 0.25' (and 1 more",
        ),
    ],
)
def test_change_of_the_result_is_refused_readably_until_accepted(now: dict[str, Any], key: str, shown: str) -> None:
    (message,) = refusal(now)
    assert message.startswith(f"{key} ") and shown in message
    assert message.endswith("--run.accept_changes")
    check_changes(differences(options(), now), True, SOURCE)


def test_betons_of_the_epochs_behind_cannot_change() -> None:
    assert "train_160 is cd, was ab" in refusal(options() | {"train_160": "cd"})[0]
    assert "128 px of 320, batch 64" in refusal({**options(phase={"data": 320}), "train_320": "ab"})[0]


def test_every_change_is_a_line_of_its_own() -> None:
    message, *others = refusal(options(gpus=4, amp="bf16"))
    assert (message, len(others)) == ("train.amp is bf16, was fp16", 1)
    assert others[0].startswith("gpus is 4, was 8; ")


def test_another_network_cannot_be_accepted() -> None:
    with pytest.raises(OptionError, match="arch is resnet18, was resnet50") as error:
        check_changes(differences(options(), options(model=Model(arch="resnet18"))), True, SOURCE)
    assert error.value.remedy.endswith("give another --run.dir")
