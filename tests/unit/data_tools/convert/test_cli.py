"""The conversion's progress where there is no terminal: a line every 30 seconds."""

import pytest

from data_tools.convert import cli


@pytest.mark.parametrize(
    ("images", "line"),
    [(960, "1,460 of 10,000 images, 32 a second, 04:26 left\n"), (0, "500 of 10,000 images, 0 a second, ? left\n")],
)
def test_progress_in_a_log(
    images: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    bar = cli.Bar()
    bar.show(500, 10_000)  # done before an interruption
    for step in range(1, 1501):
        now[0] += 1 / 32
        bar.show(500 + step * images // 960, 10_000)
    bar.close()
    assert capsys.readouterr() == ("", line)
