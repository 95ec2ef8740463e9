"""Signals ask for a checkpoint and a stop; only a second Ctrl-C that is not the launcher's repetition exits at once."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from training.distributed import stop_signals
from training.distributed.stop_signals import StopSignals
from training.distributed.world import World

ALONE = World(device=torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, object]]:
    """Those of the tests, which are put back."""
    before = {each: signal.getsignal(each) for each in stop_signals.SIGNALS}
    yield dict(before)
    for each, handler in before.items():
        signal.signal(each, handler)


def test_handlers_are_restored(handlers: dict[signal.Signals, object], clock: list[float]) -> None:
    with StopSignals(ALONE, checkpoint_minutes=10) as signals:
        assert signals.poll() == (False, False)
    assert {each: signal.getsignal(each) for each in stop_signals.SIGNALS} == handlers


@pytest.mark.parametrize("number", stop_signals.SIGNALS)
def test_signal_asks_for_checkpoint_and_stop_and_another_does_not_end_the_process_that_has_saved(
    number: signal.Signals, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[tuple[object, ...]] = []
    monkeypatch.setattr(stop_signals.atexit, "register", lambda *call: at_exit.append(call))
    with StopSignals(ALONE, checkpoint_minutes=10) as signals:
        os.kill(os.getpid(), number)
        assert signals.poll() == (True, True)
    os.kill(os.getpid(), number)
    # Python drops handlers before its process is gone.
    others = [each for each in stop_signals.SIGNALS if each != signal.SIGINT]
    assert at_exit == [(signal.signal, each, signal.SIG_IGN) for each in others]


def test_checkpoint_is_due_every_checkpoint_minutes(clock: list[float]) -> None:
    with StopSignals(ALONE, checkpoint_minutes=10) as signals:
        clock[0] += 599
        assert signals.poll() == (False, False)
        clock[0] += 1
        assert signals.poll() == (False, True)
        signals.saved()
        assert signals.poll() == (False, False)


def test_second_ctrl_c_exits_at_once_with_130(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    exit_statuses: list[int] = []
    monkeypatch.setattr(stop_signals.os, "_exit", exit_statuses.append)
    with StopSignals(ALONE, checkpoint_minutes=10):
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 0.5
        os.kill(os.getpid(), signal.SIGINT)  # the launcher repeats the first one
        assert exit_statuses == []
        clock[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)  # the stop is under way already
        assert exit_statuses == []
        os.kill(os.getpid(), signal.SIGINT)
        assert exit_statuses == [130]


def test_signal_that_came_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignals(ALONE, checkpoint_minutes=10) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.poll() == (False, False)
    finally:
        signal.signal(signal.SIGHUP, before)
