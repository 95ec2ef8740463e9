"""The conversion's progress where there is no terminal."""

from __future__ import annotations

import pytest

from data_tools.convert import cli


def test_progress_in_a_log_is_a_line_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    bar = cli.Bar()
    bar.show(500, 10_000)  # done before an interruption
    for done in range(501, 2_001):
        now[0] += 1 / 32
        bar.show(done, 10_000)
    bar.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "1,460 of 10,000 images, 32 a second, 04:26 left\n"


def test_time_left_is_unknown_before_the_first_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    bar = cli.Bar()
    bar.show(5, 10)
    now[0] += 30
    bar.show(5, 10)
    assert capsys.readouterr().err == "5 of 10 images, 0 a second, ? left\n"
