"""The conversion's progress where there is no terminal: whole lines, and few of them."""

from __future__ import annotations

import pytest

from data_tools.convert import cli


def test_a_log_gets_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    bar = cli.Bar()
    bar.show(500, 10_000)  # an interrupted run had done these
    for done in range(501, 2_001):
        now[0] += 1 / 32
        bar.show(done, 10_000)
    bar.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "1,460 of 10,000 images, 32 a second, 04:26 left\n"


def test_a_line_without_a_rate() -> None:
    assert cli._line(5, 10, 30.0, 0) == "5 of 10 images, 0 a second, ? left"
