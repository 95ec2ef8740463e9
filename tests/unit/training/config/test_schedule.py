"""Learning rates, phases and validation batches of a schedule, by hand."""

import pytest
import torch
from helpers.recipes import schedule

from training.config.schedule import Phase, Ramp


def test_published_learning_rates() -> None:
    assert schedule("machines8").lr(0, 1, 157) == 1.9220382165605094
    assert schedule("titan8").lr(24, 626, 626) == 0.004375
    # By hand: 0.4375 - 0.39375 * (3 * 100 + 50) / (9 * 100)
    assert schedule("titan8").lr(16, 50, 100) == pytest.approx(0.284375, rel=1e-12)


def test_published_val_batches_and_sets() -> None:
    titan8 = schedule("titan8")
    assert [p.val_batch for p in titan8.phases] == [512, 256, 128]
    phases = [
        Phase(epochs=(0, 1), px=px, batch_per_gpu=bs, data="160") for px, bs in ((128, 1024), (224, 192), (288, 64))
    ]
    assert [p.val_batch for p in phases] == [1024, 256, 128]
    assert titan8.betons() == ("train_160", "val_160", "train_320", "val_320", "train_full", "val_full")
    assert [p.rectangular_val for p in titan8.phases] == [False, False, True]
    assert [p.min_scale for p in titan8.phases] == [0.08, 0.087, 0.5]


def test_ramp_reaches_its_end_exactly() -> None:
    ramp = Ramp(epochs=(0, 3), first=0.1, last=0.3)
    assert ramp.at(2, 7, 7) == 0.3
    assert ramp.at(0, 1, 7) == pytest.approx(0.1 + 0.2 / 21)


def test_span_of_a_phase_counts_epochs_from_1() -> None:
    spans = {(0, 2): "1-2", (2, 3): "3", (0, 1): "1", (18, 25): "19-25"}
    for (start, end), span in spans.items():
        assert Phase(epochs=(start, end), px=128, batch_per_gpu=2, data="160").span == span


def test_phase_of_an_epoch() -> None:
    titan8 = schedule("titan8")
    assert [titan8.phase(e).px for e in (0, 12, 13, 24, 25, 27)] == [128, 128, 224, 224, 288, 288]
    with pytest.raises(IndexError, match="epoch 28"):
        titan8.phase(28)


@pytest.mark.parametrize("torchs", ["cosine", "polynomial"])
def test_curved_ramps_are_those_of_torch(torchs: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.048)
    if torchs == "cosine":
        scheduler: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
        ramp = Ramp(epochs=(2, 5), first=2.048, last=0.0, shape="cosine")
    else:
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30, power=2.0)
        ramp = Ramp(epochs=(2, 5), first=2.048, last=0.0, shape="polynomial", power=2.0)
    for done in range(30):
        epoch, batch = divmod(done, 10)
        assert ramp.at(2 + epoch, batch, 10) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert ramp.at(4, 10, 10) == 0.0


def test_curved_ramps_by_hand() -> None:
    # A third of the way: 1 + 2 (1 - cos 60°) / 2 = 1.5 and 3 - 2 (2/3)³ = 2.407...
    assert Ramp(epochs=(0, 3), first=1.0, last=3.0, shape="cosine").at(0, 5, 5) == pytest.approx(1.5)
    steep = Ramp(epochs=(0, 3), first=0.1, last=0.3, shape="polynomial", power=3.0)
    assert steep.at(1, 0, 5) == pytest.approx(0.3 - 0.2 * 8 / 27)


def test_momentum_is_none_without_ramps() -> None:
    assert schedule("titan8").momentum(3, 1, 10) is None
    assert schedule("aiacc8").momentum(4, 10, 10) == 0.9


def test_val_resize_is_by_default_1_14_of_the_crop() -> None:
    phase = Phase(epochs=(0, 1), px=224, batch_per_gpu=1, data="320")
    assert phase.val_shorter_px == 255
    assert Phase(epochs=(0, 1), px=176, val_px=224, val_resize=232, batch_per_gpu=1, data="500").val_shorter_px == 232
